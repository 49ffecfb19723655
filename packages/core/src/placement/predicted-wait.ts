// Admission over a fleet: how long a job would wait, from what workers have published.

import { endsPerMs } from "./added-ms.ts";
import { DEFAULT_TTL_MS } from "./choose-pull.ts";
import type { FleetState, QueueState, WorkerState } from "./fleet-state.ts";

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
 * @param ttlMs - age from which published states do not count
 * @returns ms, at least 0; `Infinity` if no worker of the job's model version is alive, or none will have room
 */
export function predictedWaitMs(
  job: ArrivingJob,
  queues: readonly QueueState[],
  fleet: Pick<FleetState, "nowMs" | "workers">,
  ttlMs: number = DEFAULT_TTL_MS,
): number {
  const workers = fleet.workers.filter(
    ({ modelVersion, publishedMs }) => modelVersion === job.modelVersion && fleet.nowMs - publishedMs <= ttlMs,
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
  ttlMs: number = DEFAULT_TTL_MS,
): Admission {
  const waitMs = predictedWaitMs(job, queues, fleet, ttlMs);
  const mostMs = (job.deadlineMs ?? Infinity) - fleet.nowMs;
  const isAdmitted = waitMs < Infinity && waitMs <= mostMs;
  if (isAdmitted) return { isAdmitted, waitMs, retryAfterMs: 0 };
  return { isAdmitted, waitMs, retryAfterMs: waitMs === Infinity ? Infinity : waitMs - Math.max(0, mostMs) };
}

function sum(workers: readonly WorkerState[], valueOf: (worker: WorkerState) => number): number {
  return workers.reduce((total, worker) => total + valueOf(worker), 0);
}
