// What a job costs on a worker: the predicted time that it takes there, and that it takes from the worker's others.

import { predictStepMs } from "../scheduling/cost-model.ts";
import { expertOfKey, type AffinityKey, type QueueHead, type WorkerState } from "./fleet-state.ts";

/** Number of steps of an answer on a worker that has not ended one yet. */
const FIRST_STEPS_PER_SEQ = 32;

/** A job whose cost is predicted. */
export interface PlacedJob {
  readonly key: AffinityKey;
  readonly head: Pick<QueueHead, "promptTokens">;
}

/** Properties of a worker that count beside its state. */
export interface WorkerRole {
  /** Whether the worker runs the expert of the job anyway, because it is a home of it. */
  readonly isHome: boolean;
}

/**
 * Predicts what a job costs on a worker, in ms summed over sequences: its own time from the pull to the last token, and
 * what it adds to the time of each running sequence. Reads of the job's expert, the expert's part in each step, prefill
 * without the cached prefix, and the load of the worker are in it; the wait for a place is not.
 */
export function addedMs(worker: WorkerState, { key, head }: PlacedJob, { isHome }: WorkerRole): number {
  const { cost, runningSeqs, runningByKey } = worker;
  const expert = expertOfKey(key);
  const gainsExpert = expert !== undefined && !isHome && (runningByKey[key] ?? 0) === 0;
  const readMs = expert === undefined || isHome ? 0 : cost.loadMsPerByte * (worker.missingBytes[expert] ?? 0);
  const prefillTokens = Math.max(0, head.promptTokens - (worker.prefixTokens[key] ?? 0));
  const prefillMs = cost.msPerToken * prefillTokens;
  const perStepMs = cost.msPerToken + cost.msPerCachedToken * head.promptTokens + (gainsExpert ? cost.msPerExpert : 0);
  const steps = stepsPerSeq(worker);
  const ownMs = readMs + prefillMs + steps * (baseStepMs(worker) + perStepMs);
  return ownMs + runningSeqs * (readMs + prefillMs + steps * perStepMs);
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
  if (worker.freeSeqs > 0) return 0;
  return 1 / endsPerMs(worker);
}

/** Predicts how many sequences of a worker end per ms. */
export function endsPerMs(worker: WorkerState): number {
  const stepMs = worker.stepMs > 0 ? worker.stepMs : baseStepMs(worker);
  return worker.runningSeqs / (stepMs * stepsPerSeq(worker));
}

/** Predicts the time of a step of the running sequences, each with one token. */
function baseStepMs({ cost, runningSeqs, runningByKey }: WorkerState): number {
  const experts = Object.keys(runningByKey).filter(
    (key) => expertOfKey(key) !== undefined && (runningByKey[key] ?? 0) > 0,
  );
  return predictStepMs(cost, {
    tokens: runningSeqs,
    distinctExperts: experts.length,
    cachedTokens: 0,
    missingBytes: 0,
  });
}
