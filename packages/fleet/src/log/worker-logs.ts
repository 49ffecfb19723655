// The logs of a worker's requests: a step gives tokens of many, and they are written together.

import { ReplyError } from "ioredis";
import type { ScriptedRedis } from "./scripts.ts";
import { appendEntries, claimRequest, type Append, type AppendOutcome, type Claim } from "./token-log.ts";

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
