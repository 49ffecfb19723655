// Writes a request's entries in order, again and again until they are there, while this worker owns the request.

import { setTimeout as sleep } from "node:timers/promises";
import type { WorkerLogs } from "./worker-logs.ts";
import type { AppendOutcome, Claim } from "./token-log.ts";

/** Why a request is not written further. */
export type WriteEnd = Exclude<AppendOutcome["kind"], "appended" | "gap">;

const [BATCH_ENTRIES, RETRY_MS, MAX_FAILURES] = [256, 100, 300] as const;

/** Writes the entries of one request. Keeps all of them, since Valkey may lose its latest when its primary dies. */
export class LogWriter {
  readonly #logs: WorkerLogs;
  readonly #requestId: string;
  readonly #claim: Claim;
  readonly #entries: string[];
  /** Number of entries that are in the log. */
  #numWritten: number;
  #hasLast = false;
  #isStopped = false;
  #pumping: Promise<void> | undefined;
  readonly #onEnd: (end: WriteEnd) => void;

  /** @param onEnd - called once if the request belongs to another worker, or was cancelled */
  constructor(logs: WorkerLogs, requestId: string, claim: Claim, onEnd: (end: WriteEnd) => void) {
    this.#logs = logs;
    this.#requestId = requestId;
    this.#claim = claim;
    this.#entries = [...claim.entries];
    this.#numWritten = this.#entries.length;
    this.#onEnd = onEnd;
  }

  /** Adds an entry; it is written soon. @param isLast - whether it ends the answer */
  add(entry: string, isLast: boolean): void {
    this.#entries.push(entry);
    this.#hasLast ||= isLast;
    this.#start();
  }

  /** Waits until all entries are written, or the writer has stopped. */
  async flush(): Promise<void> {
    while (this.#pumping) await this.#pumping;
  }

  stop(): void {
    this.#isStopped = true;
  }

  #start(): void {
    if (this.#pumping || this.#isStopped) return;
    this.#pumping = this.#pump().finally(() => (this.#pumping = undefined));
  }

  async #pump(): Promise<void> {
    let failures = 0;
    while (!this.#isStopped && this.#numWritten < this.#entries.length) {
      const entries = this.#entries.slice(this.#numWritten, this.#numWritten + BATCH_ENTRIES);
      const upTo = this.#numWritten + entries.length;
      const isEnd = this.#hasLast && upTo === this.#entries.length;
      const append = {
        requestId: this.#requestId,
        owner: this.#claim.owner,
        place: this.#numWritten + 1,
        entries,
        isEnd,
      };
      try {
        const outcome = await this.#logs.append(append);
        failures = 0;
        if (outcome.kind === "appended") this.#numWritten = upTo;
        else if (outcome.kind === "gap") this.#numWritten = outcome.last;
        else this.#end(outcome.kind);
      } catch {
        // Whether the command has run is unknown; entries that are there are compared the next time.
        if (++failures === MAX_FAILURES) this.#end("foreign");
        await sleep(RETRY_MS, undefined, { ref: false });
      }
    }
  }

  #end(kind: WriteEnd): void {
    if (this.#isStopped) return;
    this.#isStopped = true;
    this.#onEnd(kind);
  }
}
