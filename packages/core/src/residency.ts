import type { ExpertCacheStats } from "./engine.ts";
import type { ExpertRun } from "./events.ts";
import type { UpcomingUses } from "./expert-cache/upcoming-uses.ts";

/**
 * Which experts' weights are in memory. Asked once per step, after the step was scheduled and before it runs.
 */
export interface Residency {
  /** Bytes of each expert that are not in memory, by expert; those past its end are all there. */
  readonly missingBytes: ArrayLike<number>;
  /** What there is beside, where experts come and go. */
  readonly streamed?: StreamedResidency | undefined;
}

/** Experts that come and go. */
export interface StreamedResidency {
  readonly numExperts: number;
  /** Since it began. */
  readonly stats: ExpertCacheStats;
  /** Of which units were read ahead and have not run yet. */
  readonly awaitedExperts: Iterable<number>;
  /** Tells what comes after the step that runs now. */
  prepare(upcoming: UpcomingUses): void;
  /** Runs steps that do not count: nobody is told of their reads, and nothing of them is left. Between other steps. */
  rehearse<Result>(work: () => Promise<Result>): Promise<Result>;
  /** The runs that have ended since this was last called. */
  takeRuns(): readonly ExpertRun[];
  /**
   * Changes the limit: at once, or after the layer that runs. Resolves when it holds.
   * @throws {RangeError} when one layer of all experts does not fit
   */
  setBudget(budgetBytes: number): Promise<void>;
}

/** All experts are in memory, so there is nothing to do. */
export const everythingResident: Residency = { missingBytes: [] };
