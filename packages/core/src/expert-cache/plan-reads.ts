// What to evict and what to read now, so that the running step's units are there in time.

import { usedBytes, type CachedUnit, type ExpertCacheState } from "./cache-state.ts";
import { chooseVictims } from "./choose-victims.ts";
import type { EvictionCandidate, EvictionPolicy } from "./eviction-policy.ts";
import { nextUses, stepsAhead, sureUses, type KnownUses, type NextUses } from "./known-uses.ts";
import { unitBytes, unitIndex, type ExpertLayout, type ExpertUnit } from "./unit.ts";

/** Of `planReads`: the units, who leaves, and how far ahead reads go. */
export interface PlanOptions {
  readonly layout: ExpertLayout;
  readonly policy: EvictionPolicy;
  /**
   * Units are evicted for reads of at most so many layers ahead; what fits without evicting is read as far ahead as is
   * sure. 0 reads on demand: for the layer that runs next, and nothing else. More lookahead hides more of the reads
   * behind computation and makes more of them, as a place that is taken early is lost to what it held.
   */
  readonly lookaheadLayers: number;
}

/** A unit that leaves memory, and when it would have been used next. */
export interface EvictedUnit extends ExpertUnit {
  /** In steps, sure or estimated; 0 is the running one, `Infinity` when nobody is known to need it. */
  readonly nextUse: number;
}

/** What is to be done before the layer runs. Evictions make room for the loads. */
export interface ReadPlan {
  /** First. */
  readonly evict: readonly EvictedUnit[];
  /** Then, in this order: what is needed soonest first. */
  readonly load: readonly ExpertUnit[];
  /** Whether the layer can run now. Otherwise it can when its units in `load`, and those in flight, are complete. */
  readonly isReady: boolean;
}

/**
 * Plans the reads that begin now. Pure; called before each layer, and again whenever more is known or a read is complete.
 *
 * Never plans above the budget. Never evicts a unit of the layer that runs, one that is in flight, or one that is
 * needed before what it makes room for; nor, unless the layer that runs next has no other room, one that was read for a
 * sure use still to come. Never reads what has no sure use.
 *
 * @throws {RangeError} when a layer of the running step alone exceeds the budget
 */
export function planReads(state: ExpertCacheState, uses: KnownUses, options: PlanOptions): ReadPlan {
  const { layout, policy, lookaheadLayers } = options;
  checkBudget(state.budgetBytes, uses, layout);
  const sure = sureUses(uses);
  const next = nextUses(uses, layout, sure);
  const cached = new Map<number, CachedUnit>(state.units.map((unit) => [unitIndex(unit, layout), unit]));
  const evict: EvictedUnit[] = [];
  const load: ExpertUnit[] = [];
  let freeBytes = state.budgetBytes - usedBytes(state, layout);
  let left: readonly EvictionCandidate[] | undefined;
  // Nothing that this plan reads is complete, so that there are only fewer from read to read.
  const candidates = (): readonly EvictionCandidate[] => (left ??= candidatesOf(cached, state, uses, next, layout));

  const makeRoom = (missingBytes: number, among: readonly EvictionCandidate[]): boolean => {
    const victims = chooseVictims(among, missingBytes, policy, state.numEvictions + evict.length);
    if (victims) left = candidates().filter((candidate) => !victims.includes(candidate));
    for (const { layer, expert, bytes, nextUse } of victims ?? []) {
      cached.delete(unitIndex({ layer, expert }, layout));
      evict.push({ layer, expert, nextUse: stepsAhead(nextUse, uses) });
      freeBytes += bytes;
    }
    return victims !== undefined;
  };

  if (freeBytes < 0) {
    // The budget has shrunk, and what could not go then may go now.
    const idle = candidates().filter(({ nextUse }) => nextUse > 0);
    const idleBytes = idle.reduce((sum, { bytes }) => sum + bytes, 0);
    makeRoom(Math.min(-freeBytes, idleBytes), idle);
  }
  for (const { layer, expert, slot } of sure) {
    const index = unitIndex({ layer, expert }, layout);
    if (slot > 0 && lookaheadLayers === 0) break;
    if (cached.has(index)) continue;
    const bytes = unitBytes({ layer }, layout);
    if (bytes > freeBytes) {
      if (slot > lookaheadLayers) break;
      // A unit that is wanted within the lookahead would only be read again at once.
      const mayGo = candidates().filter(({ nextUse }) => nextUse > (slot === 0 ? 0 : lookaheadLayers));
      const unwanted = mayGo.filter((unit) => !isAwaited(unit, cached, next, layout));
      const hasRoom = makeRoom(bytes - freeBytes, unwanted) || (slot === 0 && makeRoom(bytes - freeBytes, mayGo));
      // What is needed later must not take the room that this one waits for.
      if (!hasRoom) break;
    }
    freeBytes -= bytes;
    load.push({ layer, expert });
    cached.set(index, { layer, expert, isLoading: true, wasUsed: false });
  }
  const isReady = sure.every((use) => use.slot > 0 || cached.get(unitIndex(use, layout))?.isLoading === false);
  return { evict, load, isReady };
}

/** @throws {RangeError} when a layer of the running step, from `uses.layer` on, needs more than `budgetBytes` */
export function checkBudget(budgetBytes: number, { layer, running }: KnownUses, layout: ExpertLayout): void {
  for (const [at, experts] of running.entries()) {
    const bytes = experts.length * unitBytes({ layer: at }, layout);
    if (at < layer || bytes <= budgetBytes) continue;
    throw new RangeError(
      `Expected \`budgetBytes\` to be at least ${bytes}, which layer ${at} needs for ${experts.length} experts, ` +
        `got \`${budgetBytes}\``,
    );
  }
}

/** Whether a unit was read for a use that is sure and still to come. */
function isAwaited(
  unit: ExpertUnit,
  cached: ReadonlyMap<number, CachedUnit>,
  { isSure }: NextUses,
  layout: ExpertLayout,
): boolean {
  const index = unitIndex(unit, layout);
  return cached.get(index)?.wasUsed === false && isSure[index] === 1;
}

/** Units in memory whose reads are complete, in order of layer and expert. */
export function candidatesOf(
  cached: ReadonlyMap<number, CachedUnit>,
  { clock, lastUses, numUses }: ExpertCacheState,
  uses: KnownUses,
  { slots }: NextUses,
  layout: ExpertLayout,
): readonly EvictionCandidate[] {
  const numLayers = layout.layerBytes.length;
  const candidates: EvictionCandidate[] = [];
  for (let index = 0; index < slots.length; index++) {
    const unit = cached.get(index);
    if (!unit || unit.isLoading) continue;
    const { layer, expert } = unit;
    const lastUse = lastUses[index] as number;
    candidates.push({
      layer,
      expert,
      bytes: unitBytes({ layer }, layout),
      nextUse: slots[index] as number,
      layersAway: ((layer - uses.layer + 2 * numLayers - 1) % numLayers) + 1,
      lastUse,
      idleSteps: lastUse < 0 ? Infinity : Math.floor((clock - lastUse - 1) / numLayers),
      numUses: numUses[index] as number,
    });
  }
  return candidates;
}
