// Decides which worker of a fleet takes a job, what that costs, and how long a job would wait. Workers pull jobs: what
// one takes is decided when it has room, so a job waits in no worker's own queue, and a worker that dies takes none
// with it.

import { predictStepMs } from "../scheduling/cost-model.ts";
import {
  type AffinityKey,
  expertKey,
  expertOfKey,
  type FleetState,
  type PullDecision,
  type QueueHead,
  type QueueState,
  type WorkerState,
} from "./fleet-state.ts";

/** Numbers that decide when a job leaves the worker where it costs least. */
export interface PullOptions {
  /** Wait after which a job may be taken by any worker. */
  readonly maxDelayMs: number;
  /** Every so many pulls of a worker take the job that has been overdue longest. */
  readonly overdueEvery: number;
  /** Wait for a better worker, as a multiple of what the job costs more here. */
  readonly patience: number;
}

const PULLS: PullOptions = { maxDelayMs: 2000, overdueEvery: 16, patience: 2 };

/** Time before its deadline at which a job may be taken by any worker. */
const DEADLINE_MARGIN_MS = 100;

/** Age of a published state from which its worker counts as gone: workers publish once a second. */
export const DEFAULT_TTL_MS = 3000;

// A shorter time is a rounding error.
const ROUNDING_MS = 1e-6;

/** A queue whose next job the worker could take. */
interface Candidate {
  readonly queue: QueueState;
  /** Cost of the job here beyond that on the best worker, in ms summed over sequences. */
  readonly regretMs: number;
  /** Wait of the queue's jobs so far, in ms summed over jobs. */
  readonly waitedMs: number;
  /** Wait of the first job beyond its cost here; a home also pays for an expert that it does not run. */
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
 */
export function choosePull(
  worker: WorkerState,
  queues: readonly QueueState[],
  fleet: FleetState,
  options: PullOptions = PULLS,
): PullDecision {
  const { overdueEvery, patience } = options;
  if (worker.freeSeqs <= 0) return {};
  const candidates = queues
    .filter(({ modelVersion }) => modelVersion === worker.modelVersion)
    .filter(({ head: { promptTokens, maxNewTokens } }) => promptTokens + maxNewTokens <= worker.freeKvTokens)
    .map((queue) => candidateOf(queue, worker, fleet, options));
  const [overdue] = candidates
    .filter(({ overdueFromMs }) => fleet.nowMs >= overdueFromMs)
    .toSorted((a, b) => a.overdueFromMs - b.overdueFromMs);
  if (overdue && worker.pulls % overdueEvery === 0) return { queueId: overdue.queue.id, reason: "overdue" };
  const eligible = candidates.filter(({ regretMs, waitedMs }) => waitedMs >= patience * regretMs - ROUNDING_MS);
  const best = eligible.toSorted(byWorth)[0];
  if (best) return { queueId: best.queue.id, reason: best.regretMs > ROUNDING_MS ? "stolen" : "home" };
  if (overdue) return { queueId: overdue.queue.id, reason: "overdue" };
  if (candidates.length === 0) return {};
  return { askAgainMs: Math.min(...candidates.map((candidate) => eligibleAtMs(candidate, patience))) };
}

function candidateOf(queue: QueueState, worker: WorkerState, fleet: FleetState, options: PullOptions): Candidate {
  const { key, head, waiting } = queue;
  const homes = new Set((fleet.homes.byKey[key] ?? []).map(({ workerId }) => workerId));
  const costOf = (one: WorkerState): number => addedMs(one, queue, { isHome: homes.has(one.id) });
  const ownMs = costOf(worker);
  let bestMs = ownMs;
  for (const other of fleet.workers) {
    if (other.id === worker.id || other.modelVersion !== worker.modelVersion) continue;
    if (fleet.nowMs - other.publishedMs > DEFAULT_TTL_MS) continue;
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
      Math.min(head.queuedMs + options.maxDelayMs, (head.deadlineMs ?? Infinity) - DEADLINE_MARGIN_MS),
    ),
  };
}

/** Orders by priority, then by worth, then by age. */
function byWorth(a: Candidate, b: Candidate): number {
  return b.queue.priority - a.queue.priority || b.worthMs - a.worthMs || a.queue.head.queuedMs - b.queue.head.queuedMs;
}

function eligibleAtMs({ queue, regretMs, overdueFromMs }: Candidate, patience: number): number {
  return Math.min(overdueFromMs, queue.head.queuedMs + (2 * patience * regretMs) / (queue.waiting + 1));
}

/** Number of steps of an answer on a worker that has not ended one yet. */
const FIRST_STEPS_PER_SEQ = 32;

/** A job whose cost is predicted. */
export interface PlacedJob {
  readonly key: AffinityKey;
  readonly head: Pick<QueueHead, "promptTokens" | "expertShares">;
}

/** Properties of a worker that count beside its state. */
export interface WorkerRole {
  /** Whether the worker runs the main expert of the job anyway, because it is a home of it. */
  readonly isHome: boolean;
}

/**
 * Predicts what a job costs on a worker, in ms summed over sequences: its own time from the pull to the last token, and
 * what it adds to the time of each running sequence. It counts reads of experts, experts in steps that would not have
 * them without the job, prefill without the cached prefix, and the load of the worker, but not the wait for a place.
 *
 * If the worker's sequences need more experts than fit into its memory, an expert is read in every step that has it.
 */
export function addedMs(worker: WorkerState, job: PlacedJob, role: WorkerRole): number {
  const { cost, runningSeqs, prefixTokens } = worker;
  const { promptTokens } = job.head;
  const steps = stepsPerSeq(worker);
  const prefillMs = cost.msPerToken * Math.max(0, promptTokens - (prefixTokens[job.key] ?? 0));
  const experts = addedExpertMs(worker, job, role);
  const perStepMs = cost.msPerToken + cost.msPerCachedToken * promptTokens + experts.perStepMs;
  const allMs = experts.onceMs + prefillMs + steps * perStepMs;
  return steps * baseStepMs(worker) + (runningSeqs + 1) * allMs;
}

/** Number of steps that a sequence holds its place on a worker. */
function stepsPerSeq(worker: Pick<WorkerState, "stepsPerSeq">): number {
  return worker.stepsPerSeq > 0 ? worker.stepsPerSeq : FIRST_STEPS_PER_SEQ;
}

/**
 * Predicts the time until a worker has room for another sequence: 0 if it has, else the mean time between ends of its
 * sequences; `Infinity` if it has neither room nor sequences.
 */
function msUntilRoom(worker: WorkerState): number {
  return worker.freeSeqs > 0 ? 0 : 1 / endsPerMs(worker);
}

/** Predicts how many sequences of a worker end per ms. */
function endsPerMs(worker: WorkerState): number {
  const stepMs = worker.stepMs > 0 ? worker.stepMs : baseStepMs(worker);
  return worker.runningSeqs / (stepMs * stepsPerSeq(worker));
}

/** Predicts what a job's experts add to each step of a worker, and once. */
function addedExpertMs(
  worker: WorkerState,
  { key, head: { promptTokens, expertShares } }: PlacedJob,
  { isHome }: WorkerRole,
): { readonly perStepMs: number; readonly onceMs: number } {
  const { cost, missingBytes } = worker;
  const main = expertOfKey(key);
  if (main === undefined) return { perStepMs: 0, onceMs: 0 };
  const load = expertLoad(worker);
  const isCrowded = usedExperts(worker) + (load(main) > 0 ? 0 : 1) > worker.expertPlaces;
  let perStepMs = 0;
  let onceMs = 0;
  const add = (expert: number, share: number): void => {
    if (share === 0 || (expert === main && isHome)) return;
    // Sequences end at random times, the last of those with the expert after all but this part of the steps.
    const stepShare = share / (1 + load(expert));
    const readMs = cost.loadMsPerByte * (missingBytes[expert] ?? 0);
    perStepMs += stepShare * (cost.msPerExpert + (isCrowded ? readMs : 0));
    if (!isCrowded) onceMs += readMs * (1 - (1 - share) ** promptTokens);
  };
  if (expertShares === undefined) add(main, 1);
  else for (let expert = 0; expert < expertShares.length; expert++) add(expert, expertShares[expert] ?? 0);
  return { perStepMs, onceMs };
}

/** Returns the number of running sequences of each expert. */
function expertLoad({ runningByExpert, runningByKey }: WorkerState): (expert: number) => number {
  if (runningByExpert) return (expert) => runningByExpert[expert] ?? 0;
  return (expert) => runningByKey[expertKey(expert)] ?? 0;
}

/** Estimates the number of distinct experts that the running sequences need. */
function usedExperts({ runningByExpert, runningByKey }: WorkerState): number {
  let used = 0;
  if (runningByExpert) {
    for (let expert = 0; expert < runningByExpert.length; expert++) used += Math.min(1, runningByExpert[expert] ?? 0);
    return used;
  }
  for (const [key, count] of Object.entries(runningByKey)) if (expertOfKey(key) !== undefined && count > 0) used++;
  return used;
}

/** Predicts the time of a step of the running sequences, each with one token. */
function baseStepMs(worker: WorkerState): number {
  const tokens = worker.runningSeqs;
  return predictStepMs(worker.cost, {
    tokens,
    distinctExperts: usedExperts(worker),
    cachedTokens: 0,
    missingBytes: 0,
  });
}

/** A job that asks for admission. */
export interface ArrivingJob {
  readonly modelVersion: string;
  readonly priority: number;
  /** Time by which it should have its first token; absent if it may wait for any time. */
  readonly deadlineMs?: number | undefined;
}

/** Whether a job is admitted, and else when it is worth asking again. */
export interface Admission {
  readonly isAdmitted: boolean;
  /** Predicted time from now until a worker takes the job. */
  readonly waitMs: number;
  /** Predicted time until such a job would be admitted; 0 if it is. `Infinity` if there is no worker. */
  readonly retryAfterMs: number;
}

/**
 * Predicts the time until a worker takes a job that is added now: 0 if there are more free places than waiting jobs
 * before it, else the time in which as many sequences end as are before it. Jobs of the same or a higher priority are
 * before it.
 *
 * @returns ms, at least 0; `Infinity` if no worker of the job's model version is alive, or none will have room
 */
export function predictedWaitMs(
  job: ArrivingJob,
  queues: readonly QueueState[],
  fleet: Pick<FleetState, "nowMs" | "workers">,
): number {
  const workers = fleet.workers.filter(
    ({ modelVersion, publishedMs }) => modelVersion === job.modelVersion && fleet.nowMs - publishedMs <= DEFAULT_TTL_MS,
  );
  if (workers.length === 0) return Infinity;
  const before = queues
    .filter(({ modelVersion, priority }) => modelVersion === job.modelVersion && priority >= job.priority)
    .reduce((jobs, { waiting }) => jobs + waiting, 0);
  const free = sum(workers, ({ freeSeqs }) => Math.max(0, freeSeqs));
  if (before < free) return 0;
  return (before + 1 - free) / sum(workers, endsPerMs);
}

/** Decides whether a job is admitted: it is if its predicted wait ends before its deadline. */
export function admitJob(
  job: ArrivingJob,
  queues: readonly QueueState[],
  fleet: Pick<FleetState, "nowMs" | "workers">,
): Admission {
  const waitMs = predictedWaitMs(job, queues, fleet);
  const mostMs = (job.deadlineMs ?? Infinity) - fleet.nowMs;
  const isAdmitted = waitMs < Infinity && waitMs <= mostMs;
  if (isAdmitted) return { isAdmitted, waitMs, retryAfterMs: 0 };
  return { isAdmitted, waitMs, retryAfterMs: waitMs === Infinity ? Infinity : waitMs - Math.max(0, mostMs) };
}

function sum(workers: readonly WorkerState[], valueOf: (worker: WorkerState) => number): number {
  return workers.reduce((total, worker) => total + valueOf(worker), 0);
}
