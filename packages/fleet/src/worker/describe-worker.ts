// The state of a worker, from what it holds.

import type { EngineInfo } from "@readme-moe/core";
import type { PublishedWorker, WorkerCounters } from "./state.ts";
import type { StepPace } from "./step-pace.ts";

/** Places that a job holds. */
export interface HeldJob {
  readonly affinity: string;
  readonly numSeqs: number;
  /** Tokens of its prompts and longest completions. */
  readonly kvTokens: number;
}

/** Jobs and counters of a worker. */
export interface WorkerHoldings {
  readonly id: string;
  readonly promptVersion: string;
  readonly modelVersion: string;
  readonly info: Pick<EngineInfo, "precision" | "maxNumSeqs" | "kvCapacityTokens">;
  readonly publishedMs: number;
  readonly jobs: readonly HeldJob[];
  readonly pace: Pick<StepPace, "cost" | "stepMs" | "stepsPerSeq">;
  readonly pulls: number;
  readonly counters: WorkerCounters;
  readonly isDraining: boolean;
}

/** Describes a worker as it is published. */
export function describeWorker({ info, jobs, pace, ...rest }: WorkerHoldings): PublishedWorker {
  const { precision, maxNumSeqs, kvCapacityTokens } = info;
  const runningSeqs = jobs.reduce((sum, { numSeqs }) => sum + numSeqs, 0);
  const heldTokens = jobs.reduce((sum, { kvTokens }) => sum + kvTokens, 0);
  const runningByKey: Record<string, number> = {};
  for (const { affinity, numSeqs } of jobs) runningByKey[affinity] = (runningByKey[affinity] ?? 0) + numSeqs;
  return {
    ...rest,
    precision,
    maxNumSeqs,
    kvCapacityTokens,
    runningSeqs,
    runningByKey,
    freeSeqs: rest.isDraining ? 0 : Math.max(0, maxNumSeqs - runningSeqs),
    // One job always fits: an engine computes again what it has no room for.
    freeKvTokens: jobs.length === 0 ? Number.MAX_SAFE_INTEGER : Math.max(0, kvCapacityTokens - heldTokens),
    missingBytes: [],
    expertPlaces: Infinity,
    prefixTokens: {},
    cost: pace.cost,
    stepMs: pace.stepMs,
    stepsPerSeq: pace.stepsPerSeq,
  };
}
