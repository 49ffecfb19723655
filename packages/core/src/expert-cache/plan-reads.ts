// Decides which units to evict and which to read now, so that the running step's units are in memory in time, and when
// units will be used. With a pre-gating router the rest of the running step is exact, and so are the tokens of the
// next step that already exist; later uses are estimated from the order of the queue. In a mixture with a router in
// every layer only the running layer is exact, and the others have chances.

import {
  type CachedUnit,
  type ExpertCacheState,
  type ExpertLayout,
  type ExpertUnit,
  unitBytes,
  unitIndex,
  usedBytes,
} from "./cached-units.ts";
import { chooseVictims, type EvictionCandidate, evictionCandidates, type EvictionPolicy } from "./eviction-policy.ts";

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
  /** Units to read then, in this order: the soonest needed first. Reads because of estimates come last. */
  readonly load: readonly PlannedRead[];
}

/** A read that begins now. */
export interface PlannedRead extends ExpertUnit {
  /** Whether it is made because of an estimate. @default false */
  readonly isEstimated?: boolean | undefined;
}

/**
 * Plans the reads that begin now. Pure; called before each layer.
 *
 * A plan never exceeds the budget. It never evicts a unit of the running layer or a unit that is needed before the one
 * it makes room for. It evicts a unit that was read for a use still to come only if the layer that runs next has no
 * other room. It reads units without a certain use only because of `uses.estimates`, after all certain ones: those
 * whose chance outweighs the delay that a needless read would cause, as far as there is room. For an estimate it evicts
 * no unit with a certain use, and none that is expected sooner.
 *
 * @throws {RangeError} if a layer of the running step alone exceeds the budget
 */
export function planReads(state: ExpertCacheState, uses: UseForecast, options: PlanOptions): ReadPlan {
  checkBudget(state.budgetBytes, uses, options.layout);
  const certain = certainUses(uses);
  const draft = new PlanDraft(state, uses, certain, options);
  for (const use of certain) {
    if (use.slot > 0 && options.lookaheadLayers === 0) break;
    if (draft.holds(use)) continue;
    // Later reads must not take the room that this one needs.
    if (!draft.makeRoom(use)) return draft.plan;
    draft.read(use);
  }
  const reads = new ChannelTime(uses, draft.load.length > 0);
  for (const use of estimatedUses(uses, draft.nextUses, options.layout)) {
    if (draft.holds(use) || draft.evicts(use)) continue;
    const gainBytes = reads.gainOf(use, unitBytes(use, options.layout));
    if (gainBytes <= 0) continue;
    if (!draft.makeEstimatedRoom(use, gainBytes)) break;
    draft.read(use, true);
    reads.add(unitBytes(use, options.layout));
  }
  return draft.plan;
}

/** The time that reads have before layers need their units, counted in bytes. */
class ChannelTime {
  readonly #layerReadBytes: number;
  #pendingBytes: number;

  /** @param isAwaited - whether the running layer waits for reads of this plan, and so for all earlier ones, too */
  constructor({ estimates }: UseForecast, isAwaited: boolean) {
    this.#layerReadBytes = estimates?.layerReadBytes ?? Infinity;
    this.#pendingBytes = isAwaited ? 0 : (estimates?.pendingBytes ?? 0);
  }

  /**
   * Computes the time that a read gains on average, in bytes. Begun now it saves the time until its layer runs; a
   * needless read delays the reads of that layer by the rest of its own time.
   */
  gainOf({ chance, away }: EstimatedUse, bytes: number): number {
    const spareBytes = away * this.#layerReadBytes - this.#pendingBytes;
    if (spareBytes <= 0) return 0;
    return chance * Math.min(spareBytes, bytes) - (1 - chance) * Math.max(0, bytes - spareBytes);
  }

  add(bytes: number): void {
    this.#pendingBytes += bytes;
  }
}

/** A plan in the making, and the cache as the plan leaves it. */
class PlanDraft {
  readonly evict: EvictedUnit[] = [];
  readonly load: PlannedRead[] = [];
  readonly nextUses: NextUses;
  readonly #state: ExpertCacheState;
  readonly #uses: UseForecast;
  readonly #options: PlanOptions;
  /** Units in memory, those that the plan reads included, by `unitIndex`. */
  readonly #held: Map<number, CachedUnit>;
  #freeBytes: number;
  #candidates: readonly EvictionCandidate[] | undefined;

  constructor(state: ExpertCacheState, uses: UseForecast, certain: readonly CertainUse[], options: PlanOptions) {
    const { layout } = options;
    this.#state = state;
    this.#uses = uses;
    this.#options = options;
    this.nextUses = nextUses(uses, layout, certain);
    this.#held = new Map(state.units.map((unit) => [unitIndex(unit, layout), unit]));
    this.#freeBytes = state.budgetBytes - usedBytes(state, layout);
  }

  get plan(): ReadPlan {
    return { evict: this.evict, load: this.load };
  }

  holds(unit: ExpertUnit): boolean {
    return this.#held.has(this.#indexOf(unit));
  }

  evicts({ layer, expert }: ExpertUnit): boolean {
    return this.evict.some((unit) => unit.layer === layer && unit.expert === expert);
  }

  /** Plans a read, for which there is room. */
  read({ layer, expert }: ExpertUnit, isEstimated = false): void {
    const bytes = unitBytes({ layer, expert }, this.#options.layout);
    this.#held.set(this.#indexOf({ layer, expert }), { layer, expert, wasUsed: false });
    this.#freeBytes -= bytes;
    this.load.push(isEstimated ? { layer, expert, isEstimated } : { layer, expert });
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

  /**
   * Evicts units without a certain use that are expected later than this one, if the loss is below the gain: a unit is
   * read again with its chance.
   *
   * @returns whether there is room for it
   */
  makeEstimatedRoom({ layer, expert, slot }: EstimatedUse, gainBytes: number): boolean {
    const missingBytes = unitBytes({ layer, expert }, this.#options.layout) - this.#freeBytes;
    if (missingBytes <= 0) return true;
    const { isCertain } = this.nextUses;
    const evictable = this.#remaining().filter(
      (unit) => unit.nextUse > slot && !isCertain[this.#indexOf(unit)] && !this.#isAwaited(unit),
    );
    const chances = this.#uses.estimates?.chances;
    const lossOf = (unit: EvictionCandidate): number => unit.bytes * (chances?.[this.#indexOf(unit)] ?? 0);
    return this.#evict(
      evictable,
      missingBytes,
      (victims) => victims.reduce((sum, victim) => sum + lossOf(victim), 0) < gainBytes,
    );
  }

  /** Lists the units that a read may evict. A unit needed within the lookahead would be read again at once. */
  #evictable(slot: number): readonly EvictionCandidate[] {
    const keptLayers = slot === 0 ? 0 : this.#options.lookaheadLayers;
    return this.#remaining().filter(({ nextUse }) => nextUse > keptLayers);
  }

  /** Lists the units that were in memory before the plan and that it does not evict. */
  #remaining(): readonly EvictionCandidate[] {
    return (this.#candidates ??= candidatesAt(this.#state, this.#uses, this.nextUses, this.#options.layout));
  }

  /** Whether the unit was read for a use that is still to come: a certain one, or an estimated one in reach. */
  #isAwaited(unit: EvictionCandidate): boolean {
    const index = this.#indexOf(unit);
    const held = this.#held.get(index);
    if (held?.wasUsed !== false) return false;
    if (this.nextUses.isCertain[index] === 1) return true;
    return held.isEstimated === true && unit.layersAway <= (this.#uses.estimates?.layersAhead ?? 0);
  }

  /** Evicts the policy's choice among these units. @returns whether they make enough room; if not, all of them stay */
  #evict(
    among: readonly EvictionCandidate[],
    missingBytes: number,
    isWorth: (victims: readonly EvictionCandidate[]) => boolean = () => true,
  ): boolean {
    const firstDecision = this.#state.numEvictions + this.evict.length;
    const victims = chooseVictims({ candidates: among, missingBytes, policy: this.#options.policy, firstDecision });
    if (!victims || !isWorth(victims)) return false;
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
  // Between two steps, the nearest units are those of a layer that does not run yet.
  const isBetween = known.layer === layout.layerBytes.length;
  const candidates = candidatesAt(state, known, next, layout).filter(({ nextUse }) => nextUse > 0 || isBetween);
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

/** The distinct experts of one step by layer, `[numLayers][experts]`, each list in the order in which they run. */
export type StepUses = readonly (readonly number[])[];

/** Known and estimated uses of units; the basis of reads and evictions. */
export interface UseForecast {
  /** The layer that runs now, or as soon as its units are in memory; `numLayers` between two steps. */
  readonly layer: number;
  /** Uses of the running step. Layers before `layer` are done. */
  readonly running: StepUses;
  /** Certain uses of the next step. @default none */
  readonly planned?: StepUses | undefined;
  /**
   * Number of steps until an estimated use of each expert; 1 is the next step, `Infinity` is never. It counts
   * only if no certain use is known. Only evictions depend on it; nothing is read because of an estimate.
   * `[numExperts]`
   */
  readonly laterSteps?: ArrayLike<number> | undefined;
  /** Chances of units in a mixture with a router in every layer. Evictions and reads depend on them. @default none */
  readonly estimates?: UseEstimates | undefined;
}

/** Limits of the estimated uses that are read ahead. */
export interface ReadAheadOptions {
  /** Largest number of layers ahead for which units are read because of an estimate. 0 reads none. */
  readonly layersAhead: number;
  /** Least chance of a unit that is read because of an estimate, in [0, 1]. */
  readonly leastChance: number;
}

/** Reads likely units of the next layer. A read for a later one rarely gains what its wrong guesses cost. */
export const DEFAULT_READ_AHEAD: ReadAheadOptions = { layersAhead: 1, leastChance: 0.4 };

/** Estimated uses of a mixture's units, and what may be read because of them. Plain data. */
export interface UseEstimates extends ReadAheadOptions {
  /** Chance in [0, 1] that a layer's next run uses the unit, by `unitIndex`. Certain uses win. */
  readonly chances: ArrayLike<number>;
  /** Bytes that can be read while one layer runs. @default Infinity */
  readonly layerReadBytes?: number | undefined;
  /** Bytes of reads that are in progress. @default 0 */
  readonly pendingBytes?: number | undefined;
}

interface CertainUse extends ExpertUnit {
  /** Number of layers from now; 0 is the running layer. */
  readonly slot: number;
}

/** Lists all certain uses, nearest first. A unit that both the running and the next step need is listed twice. */
export function certainUses({ layer, running, planned }: UseForecast): readonly CertainUse[] {
  const uses: CertainUse[] = [];
  for (let slot = 0; slot < 2 * running.length - layer; slot++) {
    const at = (layer + slot) % running.length;
    const step = layer + slot < running.length ? running : planned;
    for (const expert of step?.[at] ?? []) uses.push({ layer: at, expert, slot });
  }
  return uses;
}

/** The next use of each unit, by `unitIndex`. */
interface NextUses {
  /** Number of layers from now; `Infinity` if no known token needs the unit. */
  readonly slots: Float64Array;
  /** 1 if the use is certain, 0 if it is an estimate or there is none. */
  readonly isCertain: Uint8Array;
}

/**
 * Finds the next use of every unit, as far as it is known. Layers run in a cycle.
 * @param certain - the certain uses of the forecast
 */
export function nextUses(
  { layer, laterSteps, estimates }: UseForecast,
  layout: ExpertLayout,
  certain: readonly CertainUse[],
): NextUses {
  const numLayers = layout.layerBytes.length;
  const slots = new Float64Array(numLayers * layout.numExperts).fill(Infinity);
  const isCertain = new Uint8Array(slots.length);
  for (const use of certain) {
    const index = unitIndex(use, layout);
    if (isCertain[index]) continue;
    slots[index] = use.slot;
    isCertain[index] = 1;
  }
  if (estimates) {
    for (let index = 0; index < slots.length; index++) {
      if (!isCertain[index]) slots[index] = expectedSlot(index, layer, estimates.chances, layout);
    }
    return { slots, isCertain };
  }
  if (!laterSteps) return { slots, isCertain };
  for (let index = 0; index < slots.length; index++) {
    if (isCertain[index]) continue;
    const steps = laterSteps[index % layout.numExperts] ?? Infinity;
    slots[index] = steps * numLayers - layer + Math.floor(index / layout.numExperts);
  }
  return { slots, isCertain };
}

/**
 * Computes the expected next use of a unit, in layers from now. Its layer runs once in each step, and each run uses the
 * unit with the same chance, so the number of runs until then is geometric.
 *
 * @returns `Infinity` without a chance
 */
function expectedSlot(index: number, layer: number, chances: ArrayLike<number>, layout: ExpertLayout): number {
  const numLayers = layout.layerBytes.length;
  const chance = chances[index] ?? 0;
  if (!(chance > 0)) return Infinity;
  return (
    layersUntil(Math.floor(index / layout.numExperts), layer, numLayers) + numLayers * (1 / Math.min(1, chance) - 1)
  );
}

/**
 * Counts the layers from the running one to the next run of another, from 1 up. The running layer itself is a step
 * away, and between two steps the last layer counts as running.
 */
function layersUntil(at: number, layer: number, numLayers: number): number {
  const running = Math.min(layer, numLayers - 1);
  return ((at - running + 2 * numLayers - 1) % numLayers) + 1;
}

/** A unit that may be read because of an estimate. */
interface EstimatedUse extends ExpertUnit {
  readonly chance: number;
  /** Number of layers until the unit's layer runs, from 1 up. */
  readonly away: number;
  /** Expected next use, in layers from now. */
  readonly slot: number;
}

/**
 * Lists the units whose chance is large enough for a read, the soonest expected first; none without estimates.
 * @param next - next uses of the same forecast
 */
export function estimatedUses(
  { layer, estimates }: UseForecast,
  { slots, isCertain }: NextUses,
  { numExperts, layerBytes }: ExpertLayout,
): readonly EstimatedUse[] {
  if (!estimates) return [];
  const { chances, layersAhead, leastChance } = estimates;
  const numLayers = layerBytes.length;
  const uses: EstimatedUse[] = [];
  const running = Math.min(layer, numLayers - 1);
  for (let away = 1; away <= Math.min(layersAhead, numLayers); away++) {
    const at = (running + away) % numLayers;
    for (let expert = 0; expert < numExperts; expert++) {
      const index = at * numExperts + expert;
      const chance = chances[index] ?? 0;
      if (isCertain[index] || chance <= 0 || chance < leastChance) continue;
      uses.push({ layer: at, expert, chance, away, slot: slots[index] ?? Infinity });
    }
  }
  return uses.sort((a, b) => a.slot - b.slot || a.away - b.away || a.expert - b.expert);
}

/** Converts a number of layers from now to a number of steps; 0 is the running step. */
function stepsAhead(slot: number, { layer, running }: Pick<UseForecast, "layer" | "running">): number {
  return slot === Infinity ? Infinity : Math.floor((slot + layer) / running.length);
}
