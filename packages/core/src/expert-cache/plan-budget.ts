// A budget that changes while steps run.

import { usedBytes, type CachedUnit, type ExpertCacheState } from "./cache-state.ts";
import { chooseVictims } from "./choose-victims.ts";
import { nextUses, stepsAhead, sureUses, type KnownUses } from "./known-uses.ts";
import { candidatesOf, checkBudget, type EvictedUnit, type PlanOptions } from "./plan-reads.ts";
import { unitIndex } from "./unit.ts";

/** How a cache gets from one budget to another. */
export interface BudgetPlan {
  /** What goes at once. */
  readonly evict: readonly EvictedUnit[];
  /**
   * Bytes that go later, as they belong to the layer that runs or to reads in flight: `planReads` gives them up as soon
   * as they are free, and begins no read before. 0 when the new budget holds from now on.
   */
  readonly laterBytes: number;
}

/**
 * What a new budget asks for. Pure. A larger budget evicts nothing; `planReads` uses it.
 *
 * @param uses - of the step that runs; absent when none does
 * @throws {RangeError} when a layer of the running step alone exceeds the new budget
 */
export function planBudget(
  state: ExpertCacheState,
  budgetBytes: number,
  uses: KnownUses | undefined,
  { layout, policy }: Pick<PlanOptions, "layout" | "policy">,
): BudgetPlan {
  const known = uses ?? { layer: 0, running: layout.layerBytes.map(() => []) };
  checkBudget(budgetBytes, known, layout);
  const overBytes = usedBytes(state, layout) - budgetBytes;
  if (overBytes <= 0) return { evict: [], laterBytes: 0 };
  const cached = new Map<number, CachedUnit>(state.units.map((unit) => [unitIndex(unit, layout), unit]));
  const idle = candidatesOf(cached, state, known, nextUses(known, layout, sureUses(known)), layout).filter(
    ({ nextUse }) => nextUse > 0,
  );
  const victims = chooseVictims(idle, overBytes, policy, state.numEvictions) ?? idle;
  const freed = victims.reduce((sum, { bytes }) => sum + bytes, 0);
  return {
    evict: victims.map(({ layer, expert, nextUse }) => ({ layer, expert, nextUse: stepsAhead(nextUse, known) })),
    laterBytes: Math.max(0, overBytes - freed),
  };
}
