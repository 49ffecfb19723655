// Writes a request's entries in order, again and again until they are there, while this worker owns the request.

import { setTimeout as sleep } from "node:timers/promises";
import { ReplyError } from "ioredis";
import { z } from "zod";
import type { QueuePlace } from "../job-queues.ts";
import { FRONT_PREFIX, jobOfKey, requestKeys } from "../keys.ts";
import type { ScriptedRedis } from "./scripts.ts";
import { type Append, appendEntries, type AppendOutcome, type Claim, claimRequest } from "./token-log.ts";

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

// The logs of a worker's requests: a step gives tokens of many, and they are written together.

interface Waiting {
  readonly append: Append;
  readonly resolve: (outcome: AppendOutcome) => void;
  readonly reject: (error: unknown) => void;
}

/** Claims requests, and sends the appends of one turn of the event loop as one command. */
export class WorkerLogs {
  readonly #redis: ScriptedRedis;
  #waiting: Waiting[] = [];

  constructor(redis: ScriptedRedis) {
    this.#redis = redis;
  }

  claim(requestId: string, workerId: string): Promise<Claim> {
    return claimRequest(this.#redis, requestId, workerId);
  }

  /** Appends entries soon. Rejects if it is not known whether they were appended. */
  append(append: Append): Promise<AppendOutcome> {
    return new Promise((resolve, reject) => {
      if (this.#waiting.length === 0) setImmediate(() => void this.#sendAll());
      this.#waiting.push({ append, resolve, reject });
    });
  }

  async #sendAll(): Promise<void> {
    const waiting = this.#waiting;
    this.#waiting = [];
    const error = await this.#send(waiting);
    if (error === undefined) return;
    // A log that another program has damaged stops the command, and must stop its own request only.
    if (error instanceof ReplyError && waiting.length > 1) {
      for (const one of waiting) void this.#send([one]).then((own) => own !== undefined && one.reject(own));
      return;
    }
    for (const { reject } of waiting) reject(error);
  }

  /** @returns the error of a command that failed */
  async #send(waiting: readonly Waiting[]): Promise<unknown> {
    try {
      const outcomes = await appendEntries(
        this.#redis,
        waiting.map(({ append }) => append),
      );
      for (const [index, outcome] of outcomes.entries()) waiting[index]?.resolve(outcome);
      return undefined;
    } catch (error) {
      return error;
    }
  }
}

const count = z
  .string()
  .regex(/^\d{1,9}$/)
  .transform(Number);
const replySchema = z.tuple([count.pipe(z.number().min(1).max(128)), z.string(), z.string(), count]);

/**
 * Makes a reader the one that follows a request.
 *
 * @returns nothing for a request that is not there, was cancelled, or is another client's
 */
export async function takeOver(
  redis: ScriptedRedis,
  requestId: string,
  { client, reader }: { readonly client: string; readonly reader: string },
): Promise<
  | { readonly jobId: string; readonly numChoices: number; readonly promptTokens: number; readonly place: QueuePlace }
  | undefined
> {
  const jobId = await redis.get(jobOfKey(requestId));
  if (jobId === null) return undefined;
  const { meta } = requestKeys(jobId);
  const parsed = replySchema.safeParse(await redis.fleetFollow(meta, client, reader, FRONT_PREFIX, jobId));
  if (!parsed.success) return undefined;
  const [numChoices, modelVersion, affinity, promptTokens] = parsed.data;
  return { jobId, numChoices, promptTokens, place: { modelVersion, affinity } };
}
