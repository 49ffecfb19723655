// The numbers of an engine, summed over a fleet.

import type { EngineInfo, EngineStats, PromptReader } from "@readme-moe/core";
import type { FleetSnapshot } from "./fleet-view.ts";

/** Describes a model by a front's part of it, and by the workers that run it. */
export function fleetInfo(info: PromptReader["info"], { workers, modelVersion }: FleetSnapshot): EngineInfo {
  const places = workers.reduce((sum, { maxNumSeqs }) => sum + maxNumSeqs, 0);
  return {
    ...info,
    modelVersion,
    precision: workers[0]?.precision ?? "unknown",
    maxNumSeqs: Math.max(1, places),
    kvCapacityTokens: workers.reduce((sum, worker) => sum + worker.kvCapacityTokens, 0),
  };
}

/** Sums what workers have published. What they do not publish is 0. */
export function fleetStats({ workers, queues }: FleetSnapshot, residentBytes: number): EngineStats {
  return {
    numWaiting: queues.reduce((sum, { waiting }) => sum + waiting, 0),
    numRunning: workers.reduce((sum, { runningSeqs }) => sum + runningSeqs, 0),
    kvUsedTokens: 0,
    kvCapacityTokens: workers.reduce((sum, { kvCapacityTokens }) => sum + kvCapacityTokens, 0),
    steps: 0,
    promptTokens: 0,
    cachedTokens: 0,
    completionTokens: workers.reduce((sum, { counters }) => sum + counters.tokens, 0),
    draftedTokens: 0,
    acceptedDraftTokens: 0,
    preemptions: 0,
    residentBytes,
  };
}
