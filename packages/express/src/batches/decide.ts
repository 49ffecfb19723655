// Decisions of the process that runs batches: how many requests begin, which one is next, and what its answer means.

/** Load of the engines and of this process. */
export interface EngineLoad {
  /** Sequences that may run at once. */
  readonly places: number;
  readonly running: number;
  readonly waiting: number;
  /** Other requests that admission has let in. */
  readonly admitted: number;
  /** Requests of batches under way. */
  readonly inFlight: number;
}

/** Requests that begin in one turn at most: the load is measured again before the next ones. */
const MAX_BEGINNING = 8;

/**
 * Decides how many requests of batches may begin.
 *
 * @param maxLoad - share of the places up to which they begin
 */
export function roomFor({ places, running, waiting, admitted, inFlight }: EngineLoad, maxLoad: number): number {
  // Requests that have just begun may be in neither count of the engine.
  const taken = Math.max(running + waiting, admitted + inFlight);
  const most = Math.max(1, Math.floor(places * maxLoad));
  return places === 0 ? 0 : Math.max(0, Math.min(MAX_BEGINNING, most - taken));
}

/** A batch whose requests could begin. */
interface Runnable {
  readonly client: string;
  readonly inFlight: number;
  /** Whether it has a request that may begin. */
  readonly hasNext: boolean;
}

/**
 * Selects the batch whose request is next: that of the client with the fewest requests under way, and of its batches
 * the first.
 *
 * @param batches - in the order of their creation
 */
export function nextBatch<Batch extends Runnable>(batches: readonly Batch[]): Batch | undefined {
  const ofClient = new Map<string, number>();
  for (const { client, inFlight } of batches) ofClient.set(client, (ofClient.get(client) ?? 0) + inFlight);
  let best: Batch | undefined;
  for (const batch of batches) {
    if (!batch.hasNext) continue;
    if (!best || (ofClient.get(batch.client) ?? 0) < (ofClient.get(best.client) ?? 0)) best = batch;
  }
  return best;
}

/** Lines of a batch. */
export interface LineStates {
  readonly total: number;
  /** 1 for each line that is answered, under way, or was refused. */
  readonly taken: Uint8Array;
  /** Indices of lines that were refused and run again, in the order of their refusals. */
  readonly refused: ReadonlySet<number>;
  /** Lines before this index are taken. */
  readonly from: number;
}

/**
 * Selects the line that is next: the first one that was not tried, else the one that was refused first. A line that is
 * always refused thereby holds up no other.
 */
export function nextLine({ total, taken, refused, from }: LineStates): number | undefined {
  for (let index = from; index < total; index++) if (taken[index] === 0) return index;
  const [first] = refused;
  return first;
}

/** Facts about a line's answer. */
export interface LineReply {
  readonly status: number;
  /** Code of its error. */
  readonly code: string | undefined;
  /** Wait that its headers ask for, in ms. */
  readonly retryAfterMs: number | undefined;
  /** Earlier failures of the engine at this line. */
  readonly failures: number;
}

/** Refusals that say nothing about the request: the server is full, is starting, or is ending. */
const PASSING = new Set([
  "server_overloaded",
  "rate_limit_exceeded",
  "rate_limiter_unavailable",
  "queue_timeout",
  "model_loading",
  "model_failed",
  "fleet_unreachable",
  "no_worker",
  "engine_drained",
  "shutting_down",
]);

/** Failures that the request itself may have caused, so that they do not repeat for ever. */
const DOUBTFUL = new Set(["engine_failed", "grammar_failed"]);

/** Tells whether the line itself may have caused a failure. @param code - that of the answer's error */
export function isDoubtful(code: string | undefined): boolean {
  return code !== undefined && DOUBTFUL.has(code);
}

const [MAX_DOUBTFUL, DEFAULT_WAIT_MS, MAX_WAIT_MS] = [3, 1000, 60_000] as const;

/** Decides whether a line runs again. @returns the wait in ms, or `undefined` where the answer counts */
export function retryAfter({ status, code, retryAfterMs, failures }: LineReply): number | undefined {
  const isPassing = status >= 400 && code !== undefined && PASSING.has(code);
  if (!isPassing && !(isDoubtful(code) && failures + 1 < MAX_DOUBTFUL)) return undefined;
  return Math.min(MAX_WAIT_MS, Math.max(1, retryAfterMs ?? DEFAULT_WAIT_MS));
}

/** Sign of life of another process, as one has seen it. */
export interface Seen {
  readonly owner: number;
  readonly beat: number | undefined;
  /** Time at which it was first seen, in ms of this process's monotonic clock. */
  readonly sinceMs: number;
}

/** Notes a sign of life. The clocks of two machines are never compared. */
export function look(seen: Seen | undefined, owner: number, beat: number | undefined, nowMs: number): Seen {
  return seen?.owner === owner && seen.beat === beat ? seen : { owner, beat, sinceMs: nowMs };
}

/** Longest time between two looks that counts as listening, as a share of the lease. */
const LISTENING_SHARE = 0.25;

/**
 * Leaves out the time in which this process did not look, since it was suspended or had no processor. An owner on the
 * same machine could show no sign of life either.
 */
export function withoutAbsence(seen: Seen, betweenLooksMs: number, leaseMs: number): Seen {
  const absentMs = betweenLooksMs - leaseMs * LISTENING_SHARE;
  return absentMs > 0 ? { ...seen, sinceMs: seen.sinceMs + absentMs } : seen;
}

/** Tells whether a process takes a batch over: it has no owner, or the owner gave no sign of life for long. */
export function mayClaim(seen: Seen, isReleased: boolean, nowMs: number, leaseMs: number): boolean {
  return seen.owner === 0 || isReleased || nowMs - seen.sinceMs >= leaseMs;
}
