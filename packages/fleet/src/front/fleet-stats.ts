// The numbers of an engine, summed over a fleet.

import type { EngineStats } from "@readme-moe/core";
import type { FleetSnapshot } from "./fleet-view.ts";

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
