// Whether a running engine still answers: a decision over how its latest requests ended.

import { errorChain, ReadMeError, type ErrorLink, type ReadMeErrorCode } from "@readme-moe/core";
import { ApiError } from "../../http/errors.ts";
import { ClientGone } from "../../http/request.ts";

/**
 * End of a request as far as the engine is to blame. A client's mistake or disconnect says nothing about the engine.
 */
export type OutcomeKind = "answer" | "fault" | "neither";

/** End of one request. Times are monotonic, in ms. */
export interface EngineOutcome {
  readonly kind: OutcomeKind;
  /** Time at which the request got the engine. */
  readonly startedMs: number;
  readonly endedMs: number;
}

/** Record of an engine's requests. */
export interface HealthRecord {
  /** Faults in a row without an answer in between. Faults of requests that ran at the same time count once. */
  readonly failures: number;
  /** Faults of requests that began before this time do not count: they repeat a known fault. */
  readonly countsFromMs: number;
  /** Time of the first of `failures`. */
  readonly failingSinceMs: number | undefined;
}

/** Creates the record of an engine that was opened at `nowMs`. */
export function freshRecord(nowMs: number): HealthRecord {
  return { failures: 0, countsFromMs: nowMs, failingSinceMs: undefined };
}

export function afterOutcome(record: HealthRecord, { kind, startedMs, endedMs }: EngineOutcome): HealthRecord {
  if (kind === "answer") return { ...record, failures: 0, failingSinceMs: undefined };
  if (kind === "neither" || startedMs < record.countsFromMs) return record;
  const { failures, failingSinceMs = endedMs } = record;
  return { failures: failures + 1, countsFromMs: endedMs, failingSinceMs };
}

/** @param maxFailures - number of failures from which an engine counts as failing all requests */
export function isFailing({ failures }: HealthRecord, maxFailures: number): boolean {
  return failures >= maxFailures;
}

/** Codes that a working engine reports: the request is impossible, the engine has no room, or it is being disposed. */
const NO_FAULTS: ReadonlySet<ReadMeErrorCode> = new Set([
  "ERR_CONTEXT_LENGTH",
  "ERR_CHAT_TEMPLATE",
  "ERR_QUEUE_FULL",
  "ERR_NO_WORKER",
  "ERR_GRAMMAR_FAILED",
  "ERR_DRAINED",
  "ERR_TAKEN_OVER",
  "ERR_DISPOSED",
]);

/** @param error - the error that a request ended with; `undefined` for a complete answer */
export function outcomeKind(error: unknown): OutcomeKind {
  if (error === undefined) return "answer";
  if (error instanceof ClientGone) return "neither";
  const readMe = readMeErrorOf(error);
  if (readMe) return NO_FAULTS.has(readMe.code) ? "neither" : "fault";
  // A refusal, such as of an overloaded server, is no fault; an unexpected error is.
  return error instanceof ApiError ? "neither" : "fault";
}

/** Finds the first `ReadMeError` of the error and its causes. A caller's function may have thrown any other error. */
export function readMeErrorOf(error: unknown): ReadMeError | undefined {
  for (let [next, depth] = [error, 0]; next instanceof Error && depth < 8; [next, depth] = [next.cause, depth + 1]) {
    if (next instanceof ReadMeError) return next;
  }
  return undefined;
}

/** Describes the fault and its causes, without the message that the client got instead. */
export function faultChain(error: unknown): readonly ErrorLink[] {
  return errorChain(readMeErrorOf(error) ?? error);
}
