// Which units to evict and which to read now, so that the running step's units are in memory in time.

import {
  unitBytes,
  unitIndex,
  usedBytes,
  type CachedUnit,
  type ExpertCacheState,
  type ExpertLayout,
  type ExpertUnit,
} from "./cached-units.ts";
import { chooseVictims, type EvictionCandidate, type EvictionPolicy } from "./eviction-policy.ts";
import { certainUses, nextUses, stepsAhead, type NextUses, type UseForecast } from "./use-forecast.ts";

/** Options of `planReads`. */
export interface PlanOptions {
  readonly layout: ExpertLayout;
  readonly policy: EvictionPolicy;
  /**
   * Largest number of layers ahead for which reads may evict. Reads that fit without evicting go as far ahead as uses
   * are certain. 0 reads on demand: for the layer that runs next, and nothing else. More lookahead hides more reads
   * behind computation and causes more reads, because memory that is taken early is lost to what it held.
   */
  readonly lookaheadLayers: number;
}

/** A unit that is evicted, and its next use. */
export interface EvictedUnit extends ExpertUnit {
  /** Next use in steps, certain or estimated; 0 is the running step, `Infinity` if no known token needs the unit. */
  readonly nextUse: number;
}

/** Evictions and reads before a layer runs. */
export interface ReadPlan {
  /** Units to evict first. */
  readonly evict: readonly EvictedUnit[];
  /** Units to read then, in this order: the soonest needed first. */
  readonly load: readonly ExpertUnit[];
}

/**
 * Plans the reads that begin now. Pure; called before each layer.
 *
 * A plan never exceeds the budget. It never evicts a unit of the running layer or a unit that is needed before the one
 * it makes room for. It evicts a unit that was read for a certain use still to come only if the layer that runs next
 * has no other room. It never reads a unit without a certain use.
 *
 * @throws {RangeError} if a layer of the running step alone exceeds the budget
 */
export function planReads(state: ExpertCacheState, uses: UseForecast, options: PlanOptions): ReadPlan {
  const { layout, policy, lookaheadLayers } = options;
  checkBudget(state.budgetBytes, uses, layout);
  const certain = certainUses(uses);
  const next = nextUses(uses, layout, certain);
  const cached = new Map<number, CachedUnit>(state.units.map((unit) => [unitIndex(unit, layout), unit]));
  const loading = new Set<number>();
  const evict: EvictedUnit[] = [];
  const load: ExpertUnit[] = [];
  let freeBytes = state.budgetBytes - usedBytes(state, layout);
  let left: readonly EvictionCandidate[] | undefined;
  // Units that this plan reads cannot be evicted by it, so the list only shrinks. It is rarely needed.
  const candidates = (): readonly EvictionCandidate[] => (left ??= candidatesOf(state, uses, next, layout));

  const makeRoom = (missingBytes: number, among: readonly EvictionCandidate[]): boolean => {
    const firstDecision = state.numEvictions + evict.length;
    const victims = chooseVictims({ candidates: among, missingBytes, policy, firstDecision });
    if (victims) left = candidates().filter((candidate) => !victims.includes(candidate));
    for (const { layer, expert, bytes, nextUse } of victims ?? []) {
      cached.delete(unitIndex({ layer, expert }, layout));
      evict.push({ layer, expert, nextUse: stepsAhead(nextUse, uses) });
      freeBytes += bytes;
    }
    return victims !== undefined;
  };

  for (const { layer, expert, slot } of certain) {
    const index = unitIndex({ layer, expert }, layout);
    if (slot > 0 && lookaheadLayers === 0) break;
    if (cached.has(index) || loading.has(index)) continue;
    const bytes = unitBytes({ layer }, layout);
    if (bytes > freeBytes) {
      if (slot > lookaheadLayers) break;
      // A unit that is needed within the lookahead would be read again at once.
      const mayGo = candidates().filter(({ nextUse }) => nextUse > (slot === 0 ? 0 : lookaheadLayers));
      const unawaited = mayGo.filter((unit) => {
        const at = unitIndex(unit, layout);
        return cached.get(at)?.wasUsed !== false || next.isCertain[at] === 0;
      });
      const hasRoom = makeRoom(bytes - freeBytes, unawaited) || (slot === 0 && makeRoom(bytes - freeBytes, mayGo));
      // Later reads must not take the room that this one needs.
      if (!hasRoom) break;
    }
    freeBytes -= bytes;
    load.push({ layer, expert });
    loading.add(index);
  }
  return { evict, load };
}

/**
 * Lists the units to evict for a new budget. Pure. None of them is a unit of the running layer.
 *
 * @param uses - uses of the running step; absent if none runs
 * @throws {RangeError} if a layer of the running step alone exceeds the new budget
 */
export function planBudget(
  state: ExpertCacheState,
  budgetBytes: number,
  uses: UseForecast | undefined,
  { layout, policy }: Pick<PlanOptions, "layout" | "policy">,
): readonly EvictedUnit[] {
  const known = uses ?? { layer: 0, running: layout.layerBytes.map(() => []) };
  checkBudget(budgetBytes, known, layout);
  const missingBytes = usedBytes(state, layout) - budgetBytes;
  if (missingBytes <= 0) return [];
  const next = nextUses(known, layout, certainUses(known));
  const candidates = candidatesOf(state, known, next, layout).filter(({ nextUse }) => nextUse > 0);
  const victims = chooseVictims({ candidates, missingBytes, policy, firstDecision: state.numEvictions }) ?? candidates;
  return victims.map(({ layer, expert, nextUse }) => ({ layer, expert, nextUse: stepsAhead(nextUse, known) }));
}

/** @throws {RangeError} if a layer of the running step, from `uses.layer` on, needs more than `budgetBytes` */
function checkBudget(budgetBytes: number, { layer, running }: UseForecast, layout: ExpertLayout): void {
  for (const [at, experts] of running.entries()) {
    const bytes = experts.length * unitBytes({ layer: at }, layout);
    if (at < layer || bytes <= budgetBytes) continue;
    throw new RangeError(
      `Expected \`budgetBytes\` to be at least ${bytes}, which layer ${at} needs for ${experts.length} experts, ` +
        `got \`${budgetBytes}\``,
    );
  }
}

/** Describes the units in memory for a policy, in order of layer and expert. */
function candidatesOf(
  { units, clock, lastUses, numUses }: ExpertCacheState,
  { layer: runningLayer }: UseForecast,
  { slots }: NextUses,
  layout: ExpertLayout,
): readonly EvictionCandidate[] {
  const numLayers = layout.layerBytes.length;
  const inOrder = units.toSorted((a, b) => unitIndex(a, layout) - unitIndex(b, layout));
  return inOrder.map(({ layer, expert }) => {
    const index = unitIndex({ layer, expert }, layout);
    const lastUse = lastUses[index] ?? -1;
    return {
      layer,
      expert,
      bytes: unitBytes({ layer }, layout),
      nextUse: slots[index] ?? Infinity,
      layersAway: ((layer - runningLayer + 2 * numLayers - 1) % numLayers) + 1,
      lastUse,
      idleSteps: lastUse < 0 ? Infinity : Math.floor((clock - lastUse - 1) / numLayers),
      numUses: numUses[index] ?? 0,
    };
  });
}
