// The state of a worker, from what it holds.

import type { EngineInfo } from "@readme-moe/core";
import { sharesOf } from "../affinity.ts";
import { completionTokens, type FleetJob } from "../job.ts";
import type { PublishedWorker, WorkerCounters } from "./state.ts";
import type { EngineMeasure } from "./engine-measure.ts";

/** Places that a job holds. */
export interface HeldJob {
  readonly affinity: string;
  readonly numSeqs: number;
  /** Shares of experts in its prompt; absent for a dense model. */
  readonly expertShares?: readonly number[] | undefined;
  /** Tokens of its prompts and longest completions. */
  readonly kvTokens: number;
}

/** Returns the places that a job holds. */
export function placesOf(job: FleetJob, affinity: string, info: Pick<EngineInfo, "contextTokens">): HeldJob {
  return {
    affinity,
    numSeqs: job.params.n,
    expertShares: sharesOf(job.expertTokens),
    kvTokens: job.prompt.length + completionTokens(job, info),
  };
}

/** Jobs and counters of a worker. */
export interface WorkerHoldings {
  readonly id: string;
  readonly promptVersion: string;
  readonly modelVersion: string;
  readonly info: Pick<EngineInfo, "precision" | "maxNumSeqs" | "kvCapacityTokens">;
  readonly publishedMs: number;
  readonly jobs: readonly HeldJob[];
  readonly measure: Omit<EngineMeasure, "observe" | "worked" | "ended">;
  readonly pulls: number;
  readonly counters: WorkerCounters;
  readonly isDraining: boolean;
  readonly homes: PublishedWorker["homes"];
}

/** Describes a worker as it is published. */
export function describeWorker({ info, jobs, measure, ...rest }: WorkerHoldings): PublishedWorker {
  const { precision, maxNumSeqs, kvCapacityTokens } = info;
  const runningSeqs = jobs.reduce((sum, { numSeqs }) => sum + numSeqs, 0);
  const heldTokens = jobs.reduce((sum, { kvTokens }) => sum + kvTokens, 0);
  const runningByKey: Record<string, number> = {};
  for (const { affinity, numSeqs } of jobs) runningByKey[affinity] = (runningByKey[affinity] ?? 0) + numSeqs;
  const { cost, stepMs, stepsPerSeq, missingBytes, expertPlaces, prefixTokens, workByKey } = measure;
  return {
    ...rest,
    precision,
    maxNumSeqs,
    kvCapacityTokens,
    runningSeqs,
    runningByKey,
    ...sumShares(jobs),
    freeSeqs: rest.isDraining ? 0 : Math.max(0, maxNumSeqs - runningSeqs),
    // One job always fits: an engine computes again what it has no room for.
    freeKvTokens: jobs.length === 0 ? Number.MAX_SAFE_INTEGER : Math.max(0, kvCapacityTokens - heldTokens),
    missingBytes,
    expertPlaces,
    prefixTokens,
    workByKey,
    cost,
    stepMs,
    stepsPerSeq,
  };
}

/** Sums the shares of experts over sequences; nothing while no job has any. */
function sumShares(jobs: readonly HeldJob[]): Pick<PublishedWorker, "runningByExpert"> {
  const sums: number[] = [];
  for (const { expertShares = [], numSeqs } of jobs) {
    for (const [expert, share] of expertShares.entries()) sums[expert] = (sums[expert] ?? 0) + numSeqs * share;
  }
  return sums.length > 0 ? { runningByExpert: sums } : {};
}
