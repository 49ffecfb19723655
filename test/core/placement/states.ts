// Plain states of workers and queues for tests.

import type { QueueState, WorkerState } from "@readme-moe/core";

export const COST = { fixedMs: 2, msPerToken: 0.5, msPerExpert: 3, msPerCachedToken: 0.01, loadMsPerByte: 0.001 };

/** An idle worker with room for anything; `id` names it. */
export function workerState(id: string, changes: Partial<WorkerState> = {}): WorkerState {
  const state = {
    id,
    modelVersion: "1",
    publishedMs: 0,
    runningSeqs: 0,
    runningByKey: {},
    freeSeqs: 4,
    freeKvTokens: 10_000,
    missingBytes: [],
    expertPlaces: Infinity,
    prefixTokens: {},
    cost: COST,
    stepMs: 0,
    stepsPerSeq: 10,
    pulls: 1,
  };
  return { ...state, ...changes };
}

/** A queue with one job of `key` that was added at 0. */
export function queueState(key: string, changes: Partial<QueueState> = {}): QueueState {
  const head = { queuedMs: 0, promptTokens: 20, maxNewTokens: 20 };
  return { id: `0/${key}`, modelVersion: "1", key, priority: 0, waiting: 1, head, ...changes };
}
