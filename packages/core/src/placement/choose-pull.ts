// Workers pull jobs. What a worker takes is decided when it has room, so a job waits in no worker's own queue, and a
// worker that dies takes none with it.

import { integerOption, numberOption, rejectUnknownKeys } from "../options.ts";
import { addedMs, msUntilRoom } from "./added-ms.ts";
import type { FleetState, PullDecision, QueueState, WorkerState } from "./fleet-state.ts";

/** Options of `choosePull`. */
export interface PullOptions {
  /** Wait after which a job may be taken by any worker, at least 0. @default 2000 */
  readonly maxDelayMs?: number | undefined;
  /** Time before its deadline at which a job may be taken by any worker, at least 0. @default 100 */
  readonly deadlineMarginMs?: number | undefined;
  /** Every so many pulls of a worker take the job that has been overdue longest, at least 1. @default 16 */
  readonly overdueEvery?: number | undefined;
  /** Wait for a better worker, as a multiple of what the job costs more here, at least 0. @default 2 */
  readonly patience?: number | undefined;
  /** Time after which a published state is of a worker that is gone, above 0. @default 3000 */
  readonly ttlMs?: number | undefined;
}

/** Default of `ttlMs`: workers publish once a second. */
export const DEFAULT_TTL_MS = 3000;

// A shorter time is a rounding error.
const ROUNDING_MS = 1e-6;

/** A queue whose next job the worker could take. */
interface Candidate {
  readonly queue: QueueState;
  /** Cost of the job here beyond that on the best worker, in ms summed over sequences. */
  readonly regretMs: number;
  /** Waits of the queue's jobs, in ms summed over jobs. */
  readonly waitedMs: number;
  /** Wait of the first job beyond what it costs more here; a home also pays for an expert that it does not run. */
  readonly worthMs: number;
  /** Time from which any worker takes the job. */
  readonly overdueFromMs: number;
}

/**
 * Chooses the queue that a worker takes its next job from.
 *
 * A job goes to the worker where it costs least (`addedMs`), by the published states of the others. A worker where it
 * costs more takes it when the queue's jobs have together waited for as long as that costs, times `patience`. Of such
 * queues the one with the highest priority goes first, then the one whose first job has waited longest beyond its cost.
 * In this comparison a home pays for an expert that none of its sequences needs now, so it goes on with the experts
 * that it runs while it can.
 *
 * Starvation is impossible: every `overdueEvery`-th pull of a worker takes the oldest job that has waited for longer
 * than `maxDelayMs` or is near its deadline, of any priority, and a worker whose other queues are all empty takes it at
 * once.
 *
 * @param worker - the worker's own state, as it is now
 * @param queues - queues with jobs; those of other model versions, and jobs that do not fit its KV memory, are ignored
 * @param fleet - published states, in which the worker's own is ignored, and homes
 * @throws {TypeError | RangeError} naming the option
 */
export function choosePull(
  worker: WorkerState,
  queues: readonly QueueState[],
  fleet: FleetState,
  options: PullOptions = {},
): PullDecision {
  const resolved = withDefaults(options);
  if (worker.freeSeqs <= 0) return {};
  const candidates = queues
    .filter(({ modelVersion, head }) => modelVersion === worker.modelVersion && fits(worker, head))
    .map((queue) => candidateOf(queue, { worker, fleet, options: resolved }));
  const overdue = oldest(candidates.filter(({ overdueFromMs }) => fleet.nowMs >= overdueFromMs));
  if (overdue && worker.pulls % resolved.overdueEvery === 0) return { queueId: overdue.queue.id, reason: "overdue" };
  const { patience } = resolved;
  const eligible = candidates.filter(({ regretMs, waitedMs }) => waitedMs >= patience * regretMs - ROUNDING_MS);
  const best = eligible.toSorted(byWorth)[0];
  if (best) return { queueId: best.queue.id, reason: best.regretMs > ROUNDING_MS ? "stolen" : "home" };
  if (overdue) return { queueId: overdue.queue.id, reason: "overdue" };
  if (candidates.length === 0) return {};
  return { askAgainMs: Math.min(...candidates.map((candidate) => eligibleAtMs(candidate, patience))) };
}

function fits(worker: WorkerState, { promptTokens, maxNewTokens }: QueueState["head"]): boolean {
  return promptTokens + maxNewTokens <= worker.freeKvTokens;
}

interface Context {
  readonly worker: WorkerState;
  readonly fleet: FleetState;
  readonly options: ResolvedOptions;
}

type ResolvedOptions = Record<keyof PullOptions, number>;

function candidateOf(queue: QueueState, { worker, fleet, options }: Context): Candidate {
  const { key, head, waiting } = queue;
  const homes = new Set((fleet.homes.byKey[key] ?? []).map(({ workerId }) => workerId));
  const costOf = (one: WorkerState): number => addedMs(one, queue, { isHome: homes.has(one.id) });
  const ownMs = costOf(worker);
  let bestMs = ownMs;
  for (const other of fleet.workers) {
    if (other.id === worker.id || other.modelVersion !== worker.modelVersion) continue;
    if (fleet.nowMs - other.publishedMs > options.ttlMs) continue;
    bestMs = Math.min(bestMs, costOf(other) + msUntilRoom(other));
  }
  const headWaitedMs = Math.max(0, fleet.nowMs - head.queuedMs);
  return {
    queue,
    regretMs: ownMs - bestMs,
    worthMs: headWaitedMs - (addedMs(worker, queue, { isHome: false }) - bestMs),
    // Jobs behind the first have waited for half as long, on average.
    waitedMs: (headWaitedMs * (waiting + 1)) / 2,
    // A job is not overdue before it is queued, whatever its deadline: later jobs could else go ahead of it forever.
    overdueFromMs: Math.max(
      head.queuedMs,
      Math.min(head.queuedMs + options.maxDelayMs, (head.deadlineMs ?? Infinity) - options.deadlineMarginMs),
    ),
  };
}

/** Orders by priority, then by worth, then by age. */
function byWorth(a: Candidate, b: Candidate): number {
  return b.queue.priority - a.queue.priority || b.worthMs - a.worthMs || a.queue.head.queuedMs - b.queue.head.queuedMs;
}

function oldest(candidates: readonly Candidate[]): Candidate | undefined {
  return candidates.toSorted((a, b) => a.overdueFromMs - b.overdueFromMs)[0];
}

function eligibleAtMs({ queue, regretMs, overdueFromMs }: Candidate, patience: number): number {
  return Math.min(overdueFromMs, queue.head.queuedMs + (2 * patience * regretMs) / (queue.waiting + 1));
}

function withDefaults(options: PullOptions): ResolvedOptions {
  rejectUnknownKeys("choosePull", options, ["maxDelayMs", "deadlineMarginMs", "overdueEvery", "patience", "ttlMs"]);
  const { maxDelayMs = 2000, deadlineMarginMs = 100, overdueEvery = 16 } = options;
  const { patience = 2, ttlMs = DEFAULT_TTL_MS } = options;
  numberOption("maxDelayMs", maxDelayMs, 0);
  numberOption("deadlineMarginMs", deadlineMarginMs, 0);
  integerOption("overdueEvery", overdueEvery, 1);
  numberOption("patience", patience, 0);
  numberOption("ttlMs", ttlMs, Number.MIN_VALUE);
  return { maxDelayMs, deadlineMarginMs, overdueEvery, patience, ttlMs };
}
