import { belady } from "../expert-cache/policies/belady.ts";
import type { ExpertLayout, ExpertUnit } from "../expert-cache/unit.ts";
import { replaySteps } from "./replay-steps.ts";
import { replayUnits } from "./replay-units.ts";
import { distinctExperts, type TraceStep } from "./trace.ts";

/** What a cache could have had on the same steps. Shares of uses, from 0 to 1. */
export interface CacheBounds {
  /** Belady who knows the rest of the step and the whole next one, and reads on demand. */
  readonly horizonHitRatio: number;
  /**
   * Belady who knows everything, unit by unit. With units of one size nothing hits more; with several sizes something
   * might, as the best choice is then a packing.
   */
  readonly beladyHitRatio: number;
}

/**
 * The hit ratios that two caches with more knowledge would have had on `steps`, within `budgetBytes`. Pure.
 *
 * @throws {RangeError} when what one layer of a step needs exceeds the budget
 */
export function cacheBounds(steps: readonly TraceStep[], layout: ExpertLayout, budgetBytes: number): CacheBounds {
  const horizon = replaySteps(steps, { layout, budgetBytes, policy: "belady", lookaheadLayers: 0 });
  const full = replayUnits(unitRequests(steps, layout), layout, budgetBytes, belady);
  return { horizonHitRatio: hitRatio(horizon), beladyHitRatio: hitRatio(full) };
}

/** The units of steps in the order in which they run: layer by layer, in each by expert. */
export function unitRequests(steps: readonly TraceStep[], { layerBytes }: ExpertLayout): readonly ExpertUnit[] {
  return steps.flatMap((step) => {
    const experts = distinctExperts(step);
    return layerBytes.flatMap((_, layer) => experts.map((expert) => ({ layer, expert })));
  });
}

/** @returns 0 where nothing was used */
export function hitRatio({ hits, uses }: { readonly hits: number; readonly uses: number }): number {
  return uses === 0 ? 0 : hits / uses;
}
