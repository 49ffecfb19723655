// Which experts' weights are in memory.

import type { ExpertCacheStats } from "./engine-stats.ts";
import type { ExpertRun } from "./events.ts";
import type { UpcomingUses } from "./expert-cache/next-step.ts";

/** Experts that are in memory. The engine reads this once per step, before the step is scheduled. */
export interface Residency {
  /** Bytes of each expert that are not in memory, by expert; experts beyond the end are in memory. */
  readonly missingBytes: ArrayLike<number>;
  /** Present if experts are streamed: read from a file when they are needed. */
  readonly streamed?: StreamedResidency | undefined;
}

/** The streamed experts of a runner. */
export interface StreamedResidency {
  readonly numExperts: number;
  /** Statistics since the runner opened. */
  readonly stats: ExpertCacheStats;
  /** Experts with units that were read ahead and have not run yet. */
  readonly prefetchedExperts: Iterable<number>;
  /** Announces the uses that follow the step that runs now. */
  prepare(upcoming: UpcomingUses): void;
  /** Runs steps that are not counted, reported or remembered. Must not overlap with other steps. */
  rehearse<Result>(work: () => Promise<Result>): Promise<Result>;
  /** Returns the runs that have ended since the last call. */
  takeRuns(): readonly ExpertRun[];
  /**
   * Changes the limit at once, or after the layer that runs. Resolves when the limit holds.
   * @throws {RangeError} if one layer of all experts does not fit
   */
  setBudget(budgetBytes: number): Promise<void>;
}

/** All experts are in memory. */
export const everythingResident: Residency = { missingBytes: [] };
