import type { Residency } from "@readme-moe/core";
import type { UnitMemory } from "./unit-memory.ts";

/**
 * The residency of streamed units, as the planner sees it.
 * @param withUnits - leaves out the experts that have no units
 */
export function streamedResidency(
  memory: UnitMemory,
  withUnits: (experts: readonly number[]) => readonly number[] = (experts) => experts,
): Residency {
  const { numExperts } = memory.layout;
  return {
    get missingBytes() {
      return memory.cache.missingBytes();
    },
    streamed: {
      numExperts,
      get stats() {
        return memory.stats;
      },
      get prefetchedExperts() {
        return memory.cache.prefetchedExperts();
      },
      prepare: (upcoming) => memory.prepare({ ...upcoming, planned: withUnits(upcoming.planned) }),
      rehearse: (work) => memory.rehearse(work),
      takeRuns: () => memory.takeRuns(),
      setBudget: (bytes) => memory.setBudget(bytes),
    },
  };
}
