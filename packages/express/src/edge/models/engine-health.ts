// Whether an engine that runs still answers: a decision over how its last requests ended.

/** How a request ended, as far as its engine is to blame. A client's mistake, or a client that left, says nothing of it. */
export type OutcomeKind = "answer" | "fault" | "neither";

/** The end of one request. Times are monotonic, in ms. */
export interface EngineOutcome {
  readonly kind: OutcomeKind;
  /** When the request got the engine. */
  readonly startedMs: number;
  readonly endedMs: number;
}

/** What is remembered of an engine's requests. */
export interface HealthRecord {
  /** Faults in a row without an answer in between; those of requests that were under way together count once. */
  readonly failures: number;
  /** Faults of requests that began before this do not count: they say nothing new. */
  readonly countsFromMs: number;
  /** When the first of `failures` was, where there are any. */
  readonly failingSinceMs: number | undefined;
}

/** Of an engine that was opened at `nowMs`. */
export function freshRecord(nowMs: number): HealthRecord {
  return { failures: 0, countsFromMs: nowMs, failingSinceMs: undefined };
}

export function afterOutcome(record: HealthRecord, { kind, startedMs, endedMs }: EngineOutcome): HealthRecord {
  if (kind === "answer") return { ...record, failures: 0, failingSinceMs: undefined };
  if (kind === "neither" || startedMs < record.countsFromMs) return record;
  const { failures, failingSinceMs = endedMs } = record;
  return { failures: failures + 1, countsFromMs: endedMs, failingSinceMs };
}

/** @param maxFailures - from this many on it fails everybody, as far as one can tell */
export function isFailing({ failures }: HealthRecord, maxFailures: number): boolean {
  return failures >= maxFailures;
}
