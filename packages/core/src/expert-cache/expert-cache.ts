import { integerOption } from "../options.ts";
import { usedBytes, type CachedUnit, type ExpertCacheState } from "./cache-state.ts";
import { resolveEvictionPolicy, type EvictionPolicy, type EvictionPolicyName } from "./eviction-policy.ts";
import type { KnownUses } from "./known-uses.ts";
import { planBudget, type BudgetPlan } from "./plan-budget.ts";
import { planReads, type EvictedUnit, type PlanOptions, type ReadPlan } from "./plan-reads.ts";
import { expertBytes, unitBytes, unitIndex, type ExpertLayout, type ExpertUnit } from "./unit.ts";

/** Of an `ExpertCache`: what the units are, and how many bytes of them may be in memory. */
export interface ExpertCacheOptions {
  readonly layout: ExpertLayout;
  /** Limit on bytes of units in memory, reads in flight included. */
  readonly budgetBytes: number;
  /** @default "belady" */
  readonly policy?: EvictionPolicyName | EvictionPolicy | undefined;
  /** Of `random`. @default 0 */
  readonly seed?: number | undefined;
  /** How many layers ahead reads may evict for, see `PlanOptions`. @default 1 */
  readonly lookaheadLayers?: number | undefined;
}

/** All since the cache began. */
export interface ExpertCacheCounters {
  /** Units that layers ran with: `hits`, and the first use of each unit that was read. */
  readonly uses: number;
  /** Uses that needed no read of their own. */
  readonly hits: number;
  /** Reads that were begun. */
  readonly loads: number;
  readonly evictions: number;
  readonly bytesRead: number;
  /** Of `loads`, those evicted before any layer ran with them, and those that failed. */
  readonly wastedLoads: number;
  readonly wastedBytes: number;
}

/**
 * The books of the expert cache: what is in memory, what is on its way, what happened. Decides through `planReads` and
 * `planBudget`; reads and frees nothing itself.
 *
 * For each layer of a step: `plan` until it `isReady`, evicting and reading what it says and telling `loaded` of each
 * complete read; then run the layer, and tell `ran`.
 *
 * Or, so that the books never depend on how fast reads are: `enterLayer` once, evict and read what it says; when the
 * layer's own reads are complete, tell `allLoaded`, run the layer, and tell `ran`.
 */
export class ExpertCache {
  readonly #plan: PlanOptions;
  readonly #units = new Map<number, CachedUnit>();
  readonly #numUses: Uint32Array;
  readonly #lastUses: Float64Array;
  readonly #counters = { uses: 0, hits: 0, loads: 0, evictions: 0, bytesRead: 0, wastedLoads: 0, wastedBytes: 0 };
  #budgetBytes: number;
  #clock = 0;
  /** What a smaller budget still has to get back from layers that run and reads in flight. */
  #isShrinking = false;

  /** @throws {TypeError | RangeError} naming the option */
  constructor(options: ExpertCacheOptions) {
    const { layout, budgetBytes, policy = "belady", seed = 0, lookaheadLayers = 1 } = options;
    integerOption("numExperts", layout.numExperts, 1);
    for (const [layer, bytes] of layout.layerBytes.entries()) integerOption(`layerBytes[${layer}]`, bytes, 1);
    this.#budgetBytes = integerOption("budgetBytes", budgetBytes, 0);
    integerOption("lookaheadLayers", lookaheadLayers, 0);
    this.#plan = { layout, policy: resolveEvictionPolicy(policy, seed), lookaheadLayers };
    const numUnits = layout.numExperts * layout.layerBytes.length;
    this.#numUses = new Uint32Array(numUnits);
    this.#lastUses = new Float64Array(numUnits).fill(-1);
  }

  get state(): ExpertCacheState {
    return {
      budgetBytes: this.#budgetBytes,
      units: Array.from(this.#units.values()),
      clock: this.#clock,
      numUses: this.#numUses,
      lastUses: this.#lastUses,
      numEvictions: this.#counters.evictions,
    };
  }

  get counters(): ExpertCacheCounters {
    return { ...this.#counters };
  }

  /** Bytes of each expert that are neither in memory nor on their way, `[numExperts]`; what a scheduler asks for. */
  missingBytes(): Float64Array {
    const { layout } = this.#plan;
    const missing = new Float64Array(layout.numExperts).fill(expertBytes(layout));
    for (const unit of this.#units.values()) {
      missing[unit.expert] = (missing[unit.expert] as number) - this.#bytesOf(unit);
    }
    return missing;
  }

  /** Experts of which units were read, or are on their way, and no layer has run with them yet. */
  awaitedExperts(): ReadonlySet<number> {
    const awaited = new Set<number>();
    for (const { expert, wasUsed } of this.#units.values()) if (!wasUsed) awaited.add(expert);
    return awaited;
  }

  /**
   * What to evict and then to read now. When this returns, the books say that it was done: what was evicted is gone,
   * and what is read is in flight.
   * @throws {RangeError} when a layer of the running step alone exceeds the budget
   */
  plan(uses: KnownUses): ReadPlan {
    const plan = planReads(this.state, uses, this.#plan);
    this.#evict(plan.evict);
    for (const unit of plan.load) {
      this.#units.set(this.#indexOf(unit), { ...unit, isLoading: true, wasUsed: false });
      this.#counters.loads++;
      this.#counters.bytesRead += this.#bytesOf(unit);
    }
    this.#settle();
    return plan;
  }

  /**
   * `plan`, with all reads that were begun before as complete. Who evicts one that is not has to wait until it is.
   * @throws {RangeError} when a layer of the running step alone exceeds the budget
   */
  enterLayer(uses: KnownUses): ReadPlan {
    this.allLoaded();
    return this.plan(uses);
  }

  /** All reads under way count as complete, also those that nothing has waited for yet. */
  allLoaded(): void {
    for (const [index, unit] of this.#units) if (unit.isLoading) this.#units.set(index, { ...unit, isLoading: false });
  }

  /** A read is complete. @throws {RangeError} when none of this unit was under way */
  loaded({ layer, expert }: ExpertUnit): void {
    this.#inFlight({ layer, expert });
    this.#units.set(this.#indexOf({ layer, expert }), { layer, expert, isLoading: false, wasUsed: false });
  }

  /** A read failed; its place is free. @throws {RangeError} when no unit is there that no layer has run with */
  failed(unit: ExpertUnit): void {
    if (this.#units.get(this.#indexOf(unit))?.wasUsed !== false) {
      throw new RangeError(`No read of layer ${unit.layer} of expert ${unit.expert} can have failed`);
    }
    this.#remove(unit);
    this.#settle();
  }

  /**
   * A layer has run, with these experts; each layer counts, also one without experts.
   * @throws {RangeError} when one of them was not in memory
   */
  ran(layer: number, experts: readonly number[]): void {
    for (const expert of experts) {
      const index = this.#indexOf({ layer, expert });
      const unit = this.#units.get(index);
      if (!unit || unit.isLoading) throw new RangeError(`Layer ${layer} of expert ${expert} ran and is not in memory`);
      if (unit.wasUsed) this.#counters.hits++;
      else this.#units.set(index, { ...unit, wasUsed: true });
      this.#counters.uses++;
      this.#numUses[index] = (this.#numUses[index] as number) + 1;
      this.#lastUses[index] = this.#clock;
    }
    this.#clock++;
  }

  /**
   * Counts a whole step as run, where all units that it and the next step need are in memory and within the budget. Nothing has to be
   * decided for its layers then.
   *
   * @param experts - the step's, distinct
   * @param planned - those that are sure of the next step
   * @returns whether that is so; else nothing has changed
   */
  ranWholeStep(experts: readonly number[], planned: readonly number[]): boolean {
    const { layout } = this.#plan;
    if (usedBytes(this.state, layout) > this.#budgetBytes) return false;
    const needed = [...experts, ...planned];
    for (const layer of layout.layerBytes.keys()) {
      if (needed.some((expert) => this.#units.get(this.#indexOf({ layer, expert }))?.isLoading !== false)) return false;
    }
    for (const layer of layout.layerBytes.keys()) this.ran(layer, experts);
    return true;
  }

  /**
   * Changes the limit, at once as far as it can be.
   * @param uses - of the step that runs; absent when none does
   * @returns what to evict now, and what follows; when this returns, the books say that it was done
   * @throws {RangeError} when a layer of the running step alone exceeds the new budget, which then is not taken
   */
  setBudget(budgetBytes: number, uses?: KnownUses): BudgetPlan {
    integerOption("budgetBytes", budgetBytes, 0);
    const plan = planBudget(this.state, budgetBytes, uses, this.#plan);
    this.#budgetBytes = budgetBytes;
    this.#evict(plan.evict);
    this.#isShrinking = plan.laterBytes > 0;
    return plan;
  }

  /** @throws {Error} with the numbers, when the books are wrong */
  checkIntegrity(): void {
    const used = usedBytes(this.state, this.#plan.layout);
    if (used > this.#budgetBytes && !this.#isShrinking) {
      throw new Error(`The expert cache holds ${used} bytes, its budget is ${this.#budgetBytes}`);
    }
    const { uses, hits, loads, wastedLoads } = this.#counters;
    const unused = Array.from(this.#units.values()).filter(({ wasUsed }) => !wasUsed).length;
    if (uses - hits + wastedLoads + unused !== loads) {
      throw new Error(
        `The expert cache has ${loads} loads, of ${uses} uses ${hits} hits, ${wastedLoads} wasted, ${unused} unused`,
      );
    }
  }

  #evict(units: readonly EvictedUnit[]): void {
    for (const unit of units) this.#remove(unit);
    this.#counters.evictions += units.length;
  }

  #remove(unit: ExpertUnit): void {
    const index = this.#indexOf(unit);
    if (this.#units.get(index)?.wasUsed === false) {
      this.#counters.wastedLoads++;
      this.#counters.wastedBytes += this.#bytesOf(unit);
    }
    this.#units.delete(index);
  }

  #settle(): void {
    if (this.#isShrinking) this.#isShrinking = usedBytes(this.state, this.#plan.layout) > this.#budgetBytes;
  }

  #inFlight(unit: ExpertUnit): void {
    if (this.#units.get(this.#indexOf(unit))?.isLoading) return;
    throw new RangeError(`No read of layer ${unit.layer} of expert ${unit.expert} is under way`);
  }

  #indexOf(unit: ExpertUnit): number {
    return unitIndex(unit, this.#plan.layout);
  }

  #bytesOf(unit: ExpertUnit): number {
    return unitBytes(unit, this.#plan.layout);
  }
}
