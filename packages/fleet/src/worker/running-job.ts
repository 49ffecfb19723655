// A job on a worker, from its claim to the last entry of its log.

import { setTimeout as sleep } from "node:timers/promises";
import {
  type Engine,
  type GenerateChunk,
  type GenerateRequest,
  type ProcessLogits,
  type ReadMeEmitter,
  ReadMeError,
  type ReadMeErrorCode,
} from "@readme-moe/core";
import { Grammars, openConstraint } from "@readme-moe/grammar";
import type { JobTaker, TakenJob } from "../job-queues.ts";
import { type FleetJob, requestIdOf } from "../job.ts";
import { LogWriter, type WorkerLogs } from "../log/log-writer.ts";
import { AnswerProgress, type Claim, endsAnswer, type LoggedError, readEntry, writeEntry } from "../log/token-log.ts";
import type { HeldJob } from "./describe-worker.ts";

/** End of a job on a worker. "released": another worker goes on with it. */
export type JobEnd = "answered" | "cancelled" | "foreign" | "different" | "released";

/** A job that runs, and the places that it holds. */
export interface Running extends HeldJob {
  readonly taken: TakenJob;
  readonly run: RunningJob;
  readonly ended: Promise<void>;
}

/** Parts of a worker that a job needs. */
interface JobSurroundings {
  readonly logs: WorkerLogs;
  readonly engine: Engine;
  readonly workerId: string;
  /**
   * Id of the request in the engine; a new one each time that a job is taken. A job may come back at once, and the
   * engine may still end a step of the earlier run, whose tokens must not become those of the new one.
   */
  readonly engineId: string;
  /** Opens what constrains the answer. @throws {TypeError | RangeError} on a source that no front writes */
  readonly openConstraint: (source: object, client: string | undefined) => Promise<ProcessLogits>;
  /** Bus of `job:ended`. */
  readonly events: ReadMeEmitter;
  readonly onChunk: (chunk: GenerateChunk) => void;
  /** Called when an answer goes on that another worker has begun. */
  readonly onResumed: () => void;
}

/** Codes of errors that every worker would meet; others are this worker's, and another one tries. */
const LASTING: ReadonlySet<ReadMeErrorCode> = new Set([
  "ERR_CONTEXT_LENGTH",
  "ERR_CHAT_TEMPLATE",
  "ERR_GRAMMAR_FAILED",
]);

/**
 * Number of workers that try a job, and one whose constraint exceeds limits: those of time depend on how busy a machine
 * is. A job that fails on all of them fails.
 */
const [MAX_CLAIMS, MAX_LIMITED_CLAIMS] = [100, 3] as const;

export class RunningJob {
  readonly #job: FleetJob;
  readonly #around: JobSurroundings;
  readonly #controller = new AbortController();
  #writer: LogWriter | undefined;
  #end: JobEnd | undefined;
  #isResumed = false;
  #completionTokens = 0;
  /** Time that the request waited before its first claim. */
  #queuedMs: number | undefined;
  #firstTokenMs: number | undefined;

  constructor(job: FleetJob, around: JobSurroundings) {
    this.#job = job;
    this.#around = around;
  }

  /** Ends the job here within a step. */
  stop(end: Exclude<JobEnd, "answered">): void {
    this.#end ??= end;
    this.#writer?.stop();
    this.#controller.abort();
  }

  /** Generates the rest of the answer. @returns how it ended; rejects if Valkey cannot be asked */
  async run(): Promise<JobEnd> {
    const startMs = performance.now();
    let end: JobEnd = "released";
    try {
      return (end = await this.#run());
    } finally {
      this.#emitEnded(end, startMs);
    }
  }

  #emitEnded(end: JobEnd, startMs: number): void {
    const { id, traceparent, prompt } = this.#job;
    const firstMs = this.#firstTokenMs;
    this.#around.events.emit("job:ended", {
      requestId: requestIdOf(id),
      traceparent,
      workerId: this.#around.workerId,
      end,
      isResumed: this.#isResumed,
      promptTokens: prompt.length,
      completionTokens: this.#completionTokens,
      queuedMs: this.#queuedMs,
      prefillMs: firstMs === undefined ? undefined : firstMs - startMs,
      durationMs: performance.now() - startMs,
    });
  }

  async #run(): Promise<JobEnd> {
    const { logs, workerId } = this.#around;
    const { id, params } = this.#job;
    if (this.#end) return this.#end;
    const claim = await logs.claim(id, workerId);
    if (claim.owner.epoch === 1) this.#queuedMs = claim.sinceQueuedMs;
    if (claim.isCancelled) return "cancelled";
    const writer = new LogWriter(logs, id, claim, (end) => this.stop(end));
    this.#writer = writer;
    const progress = new AnswerProgress(params.n);
    if (!follow(progress, claim)) return "answered";
    try {
      if (claim.owner.epoch > MAX_CLAIMS) throw new TypeError("Expected a request that some worker can answer");
      for await (const chunk of this.#around.engine.generate(await this.#request(progress))) {
        writer.add(writeEntry(progress.place(chunk)), chunk.usage !== undefined);
        this.#firstTokenMs ??= performance.now();
        this.#completionTokens += chunk.tokens.length;
        this.#around.onChunk(chunk);
      }
    } catch (error) {
      if (this.#end) return this.#end;
      const { constraint } = this.#job;
      const isLimit = constraint !== undefined && error instanceof RangeError;
      const logged = isLimit && claim.owner.epoch < MAX_LIMITED_CLAIMS ? undefined : loggedError(error);
      if (!logged) return "released";
      writer.add(writeEntry({ error: logged }), true);
    }
    await writer.flush();
    return this.#end ?? "answered";
  }

  async #request(progress: AnswerProgress): Promise<GenerateRequest> {
    const { prompt, params, expert, priority, client, cacheSalt, prediction, constraint } = this.#job;
    const processLogits = constraint && (await this.#around.openConstraint(constraint, client));
    const choices = progress.tokenIds;
    const resume = choices.some((tokenIds) => tokenIds.length > 0) ? { choices } : undefined;
    this.#isResumed = resume !== undefined;
    if (resume) this.#around.onResumed();
    const { signal } = this.#controller;
    const owner = { priority, client, cacheSalt, id: this.#around.engineId, signal };
    return { prompt, params, expert, prediction, processLogits, ...owner, ...(resume && { resume }) };
  }
}

/** Follows the entries that are there. @returns whether something is left to generate */
function follow(progress: AnswerProgress, { entries }: Claim): boolean {
  for (const text of entries) {
    const entry = readEntry(text);
    if (!entry) continue;
    if (endsAnswer(entry)) return false;
    if ("chunk" in entry) progress.follow(entry);
  }
  return true;
}

/** Describes an error that ends the answer; nothing for one of this worker alone. */
function loggedError(error: unknown): LoggedError | undefined {
  if (error instanceof ReadMeError) {
    const { code, message } = error;
    return LASTING.has(code) ? { kind: "ReadMeError", code, message } : undefined;
  }
  if (error instanceof TypeError) return { kind: "TypeError", message: error.message };
  if (error instanceof RangeError) return { kind: "RangeError", message: error.message };
  return undefined;
}

// The end of a job in its queue.

const RETRY_MS = 200;

/** Removes a job that has ended, or gives it back. One that another worker has taken is not touched. */
export async function endJob(
  taken: TakenJob,
  end: JobEnd,
  taker: Pick<JobTaker, "complete" | "giveBack">,
): Promise<void> {
  if (end === "answered" || end === "cancelled") await insist(() => taker.complete(taken));
  if (end === "released") await insist(() => taker.giveBack(taken));
}

/** Changes a job in its queue. Tries twice, since an answer may be lost; a job that is gone needs nothing. */
async function insist(change: () => Promise<void>): Promise<void> {
  try {
    await change();
  } catch {
    await sleep(RETRY_MS, undefined, { ref: false });
    await change().catch((error: unknown) => {
      if (!isGone(error)) throw error;
    });
  }
}

/** Tells whether BullMQ says that a job, or this worker's lock of it, is not there. */
function isGone(error: unknown): boolean {
  return error instanceof Error && /^Missing (key|lock) for job/.test(error.message);
}

// Constraints of answers on a worker, made from the sources in jobs.

/** Opens constraints; the grammars of an engine are opened with the first. */
export class Constraints {
  readonly #engine: Engine;
  #grammars: Promise<Grammars> | undefined;

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  /** @throws {TypeError | RangeError} on a source that is wrong */
  open(source: object, client: string | undefined): Promise<ProcessLogits> {
    return openConstraint(source, { engine: this.#engine, grammars: () => this.#open(), client });
  }

  #open(): Promise<Grammars> {
    this.#grammars ??= Grammars.open(this.#engine).catch((error: unknown) => {
      // The next job tries again.
      this.#grammars = undefined;
      throw error;
    });
    return this.#grammars;
  }

  async close(): Promise<void> {
    await (await this.#grammars?.catch(() => undefined))?.dispose();
  }
}
