// Cost of a job on a worker: the predicted time that it takes there, and that it takes from the worker's others.

import { predictStepMs } from "../scheduling/cost-model.ts";
import { expertKey, expertOfKey, type AffinityKey, type QueueHead, type WorkerState } from "./fleet-state.ts";

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
export function msUntilRoom(worker: WorkerState): number {
  return worker.freeSeqs > 0 ? 0 : 1 / endsPerMs(worker);
}

/** Predicts how many sequences of a worker end per ms. */
export function endsPerMs(worker: WorkerState): number {
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
