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
import { chooseVictims, evictionCandidates, type EvictionCandidate, type EvictionPolicy } from "./eviction-policy.ts";
import { certainUses, nextUses, stepsAhead, type CertainUse, type NextUses, type UseForecast } from "./use-forecast.ts";

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
  checkBudget(state.budgetBytes, uses, options.layout);
  const certain = certainUses(uses);
  const draft = new PlanDraft(state, { uses, certain }, options);
  for (const use of certain) {
    if (use.slot > 0 && options.lookaheadLayers === 0) break;
    if (draft.holds(use)) continue;
    // Later reads must not take the room that this one needs.
    if (!draft.makeRoom(use)) break;
    draft.read(use);
  }
  return { evict: draft.evict, load: draft.load };
}

/** A plan in the making, and the cache as the plan leaves it. */
class PlanDraft {
  readonly evict: EvictedUnit[] = [];
  readonly load: ExpertUnit[] = [];
  readonly #state: ExpertCacheState;
  readonly #uses: UseForecast;
  readonly #options: PlanOptions;
  readonly #nextUses: NextUses;
  /** Units in memory, those that the plan reads included, by `unitIndex`. */
  readonly #held: Map<number, CachedUnit>;
  #freeBytes: number;
  #candidates: readonly EvictionCandidate[] | undefined;

  constructor(
    state: ExpertCacheState,
    { uses, certain }: { readonly uses: UseForecast; readonly certain: readonly CertainUse[] },
    options: PlanOptions,
  ) {
    const { layout } = options;
    this.#state = state;
    this.#uses = uses;
    this.#options = options;
    this.#nextUses = nextUses(uses, layout, certain);
    this.#held = new Map(state.units.map((unit) => [unitIndex(unit, layout), unit]));
    this.#freeBytes = state.budgetBytes - usedBytes(state, layout);
  }

  holds(unit: ExpertUnit): boolean {
    return this.#held.has(this.#indexOf(unit));
  }

  /** Plans a read, for which there is room. */
  read({ layer, expert }: ExpertUnit): void {
    this.#held.set(this.#indexOf({ layer, expert }), { layer, expert, wasUsed: false });
    this.#freeBytes -= unitBytes({ layer, expert }, this.#options.layout);
    this.load.push({ layer, expert });
  }

  /** Evicts as many units as the read for this use needs. @returns whether there is room for it */
  makeRoom({ layer, expert, slot }: CertainUse): boolean {
    const { layout, lookaheadLayers } = this.#options;
    const missingBytes = unitBytes({ layer, expert }, layout) - this.#freeBytes;
    if (missingBytes <= 0) return true;
    if (slot > lookaheadLayers) return false;
    const evictable = this.#evictable(slot);
    const withoutAwaited = evictable.filter((unit) => !this.#isAwaited(unit));
    if (this.#evict(withoutAwaited, missingBytes)) return true;
    // Only the layer that runs next takes the room of a unit that was read for a later one.
    return slot === 0 && this.#evict(evictable, missingBytes);
  }

  /** Lists the units that a read may evict. A unit needed within the lookahead would be read again at once. */
  #evictable(slot: number): readonly EvictionCandidate[] {
    const keptLayers = slot === 0 ? 0 : this.#options.lookaheadLayers;
    return this.#remaining().filter(({ nextUse }) => nextUse > keptLayers);
  }

  /** Lists the units that were in memory before the plan and that it does not evict. */
  #remaining(): readonly EvictionCandidate[] {
    return (this.#candidates ??= candidatesAt(this.#state, this.#uses, this.#nextUses, this.#options.layout));
  }

  /** Whether the unit was read for a certain use that is still to come. */
  #isAwaited(unit: ExpertUnit): boolean {
    const index = this.#indexOf(unit);
    return this.#nextUses.isCertain[index] === 1 && this.#held.get(index)?.wasUsed === false;
  }

  /** Evicts the policy's choice among these units. @returns whether they make enough room; if not, all of them stay */
  #evict(among: readonly EvictionCandidate[], missingBytes: number): boolean {
    const firstDecision = this.#state.numEvictions + this.evict.length;
    const victims = chooseVictims({ candidates: among, missingBytes, policy: this.#options.policy, firstDecision });
    if (!victims) return false;
    this.#candidates = this.#remaining().filter((candidate) => !victims.includes(candidate));
    for (const victim of victims) {
      this.#held.delete(this.#indexOf(victim));
      this.#freeBytes += victim.bytes;
      this.evict.push(evictedUnit(victim, this.#uses));
    }
    return true;
  }

  #indexOf(unit: ExpertUnit): number {
    return unitIndex(unit, this.#options.layout);
  }
}

function evictedUnit({ layer, expert, nextUse }: EvictionCandidate, uses: UseForecast): EvictedUnit {
  return { layer, expert, nextUse: stepsAhead(nextUse, uses) };
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
  const candidates = candidatesAt(state, known, next, layout).filter(({ nextUse }) => nextUse > 0);
  const victims = chooseVictims({ candidates, missingBytes, policy, firstDecision: state.numEvictions }) ?? candidates;
  return victims.map((victim) => evictedUnit(victim, known));
}

/** @throws {RangeError} if a layer of the running step, from `uses.layer` on, needs more than `budgetBytes` */
function checkBudget(budgetBytes: number, { layer, running }: UseForecast, layout: ExpertLayout): void {
  for (const [at, experts] of running.entries()) {
    const bytes = experts.reduce((sum, expert) => sum + unitBytes({ layer: at, expert }, layout), 0);
    if (at < layer || bytes <= budgetBytes) continue;
    throw new RangeError(
      `Expected \`budgetBytes\` to be at least ${bytes}, which layer ${at} needs for ${experts.length} experts, ` +
        `got \`${budgetBytes}\``,
    );
  }
}

function candidatesAt(
  state: ExpertCacheState,
  { layer }: UseForecast,
  { slots }: NextUses,
  layout: ExpertLayout,
): readonly EvictionCandidate[] {
  const cycle = { layer, numLayers: layout.layerBytes.length };
  return evictionCandidates({ units: state.units, layout, past: state, nextUses: slots, cycle });
}
