// The accounting of the expert cache: which units are in memory, and what has happened.

import { integerOption } from "../options.ts";
import {
  expertBytes,
  unitBytes,
  unitIndex,
  usedBytes,
  type CachedUnit,
  type ExpertCacheState,
  type ExpertLayout,
  type ExpertUnit,
} from "./cached-units.ts";
import { resolveEvictionPolicy, type EvictionPolicy, type EvictionPolicyName } from "./eviction-policy.ts";
import {
  type EvictedUnit,
  planBudget,
  type PlanOptions,
  planReads,
  type ReadPlan,
  type UseForecast,
} from "./plan-reads.ts";

/** Options of `ExpertCache`. */
export interface ExpertCacheOptions {
  readonly layout: ExpertLayout;
  /** Limit of the bytes of units in memory, reads in progress included. */
  readonly budgetBytes: number;
  /** @default "belady" */
  readonly policy?: EvictionPolicyName | EvictionPolicy | undefined;
  /** Seed of the policy `random`. @default 0 */
  readonly seed?: number | undefined;
  /** Largest number of layers ahead for which reads may evict, see `PlanOptions`. @default 1 */
  readonly lookaheadLayers?: number | undefined;
}

/** Counters since the cache began. */
export interface ExpertCacheCounters {
  /** Units that layers ran with: `hits`, and the first use of each unit that was read. */
  readonly uses: number;
  /** Uses that needed no read of their own. */
  readonly hits: number;
  /** Reads that were begun. */
  readonly loads: number;
  /** Units that were evicted. */
  readonly evictions: number;
  /** Bytes of all reads. */
  readonly bytesRead: number;
  /** Reads that failed, and reads whose unit was evicted before any layer ran with it; part of `loads`. */
  readonly wastedLoads: number;
  /** Bytes of `wastedLoads`. */
  readonly wastedBytes: number;
  /** Counters of estimated uses. Present once there were any: only in mixtures with a router in every layer. */
  readonly forecast?: ForecastCounters | undefined;
}

/** Counters of reads because of estimates, since the cache began. */
export interface ForecastCounters {
  /** Reads that were begun because of an estimate; part of `loads`. */
  readonly loads: number;
  /** Units of these reads that a layer then ran with. */
  readonly hits: number;
  /** Uses that neither the cache nor a forecast had provided for, so that their layer waited for a read. */
  readonly misses: number;
  /** Reads because of an estimate that failed, or whose unit was evicted unused; part of `wastedLoads`. */
  readonly wastedLoads: number;
}

/**
 * Decides which units to evict and to read, through `planReads` and `planBudget`, and keeps count. It performs no
 * reads.
 *
 * For each layer of a step: call `enterLayer`, perform the plan's evictions and begin its reads, run the layer as soon
 * as its units are in memory, and call `ran`. A unit counts as in memory as soon as its read is planned, so decisions
 * do not depend on how fast reads are. If a read fails, call `failed`.
 */
export class ExpertCache {
  readonly #plan: PlanOptions;
  readonly #units = new Map<number, CachedUnit>();
  readonly #numUses: Uint32Array;
  readonly #lastUses: Float64Array;
  readonly #counters = { uses: 0, hits: 0, loads: 0, evictions: 0, bytesRead: 0, wastedLoads: 0, wastedBytes: 0 };
  #forecast: { -readonly [Name in keyof ForecastCounters]: number } | undefined;
  #budgetBytes: number;
  #numLayersRun = 0;

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

  get budgetBytes(): number {
    return this.#budgetBytes;
  }

  get state(): ExpertCacheState {
    return {
      budgetBytes: this.#budgetBytes,
      units: Array.from(this.#units.values()),
      numLayersRun: this.#numLayersRun,
      numUses: this.#numUses,
      lastUses: this.#lastUses,
      numEvictions: this.#counters.evictions,
    };
  }

  get counters(): ExpertCacheCounters {
    return { ...this.#counters, ...(this.#forecast && { forecast: { ...this.#forecast } }) };
  }

  /** Computes the bytes of each expert that are not in memory, `[numExperts]`. */
  missingBytes(): Float64Array {
    const { layout } = this.#plan;
    const missing = new Float64Array(layout.numExperts);
    for (let expert = 0; expert < missing.length; expert++) missing[expert] = expertBytes(layout, expert);
    for (const unit of this.#units.values()) {
      missing[unit.expert] = (missing[unit.expert] ?? 0) - this.#bytesOf(unit);
    }
    return missing;
  }

  /** Lists the experts with units that were read ahead and that no layer has run with yet. */
  prefetchedExperts(): ReadonlySet<number> {
    const prefetched = new Set<number>();
    for (const { expert, wasUsed } of this.#units.values()) if (!wasUsed) prefetched.add(expert);
    return prefetched;
  }

  /**
   * Decides what to evict and what to read before a layer runs, and counts it as done.
   * @throws {RangeError} if a layer of the running step alone exceeds the budget
   */
  enterLayer(uses: UseForecast): ReadPlan {
    const plan = planReads(this.state, uses, this.#plan);
    const forecast = uses.estimates ? (this.#forecast ??= { loads: 0, hits: 0, misses: 0, wastedLoads: 0 }) : undefined;
    this.#evict(plan.evict);
    for (const unit of plan.load) {
      if (forecast) forecast[unit.isEstimated ? "loads" : "misses"]++;
      this.#units.set(this.#indexOf(unit), { ...unit, wasUsed: false });
      this.#counters.loads++;
      this.#counters.bytesRead += this.#bytesOf(unit);
    }
    return plan;
  }

  /**
   * Counts a read as failed and frees its memory.
   * @throws {RangeError} if there is no such unit, or a layer ran with it
   */
  failed(unit: ExpertUnit): void {
    if (this.#units.get(this.#indexOf(unit))?.wasUsed !== false) {
      throw new RangeError(`No read of layer ${unit.layer} of expert ${unit.expert} can have failed`);
    }
    this.#remove(unit);
  }

  /**
   * Counts a layer as run with these experts. Every layer counts, also one without experts.
   * @throws {RangeError} if one of them was not in memory
   */
  ran(layer: number, experts: readonly number[]): void {
    for (const expert of experts) {
      const index = this.#indexOf({ layer, expert });
      const unit = this.#units.get(index);
      if (!unit) throw new RangeError(`Layer ${layer} of expert ${expert} ran and is not in memory`);
      if (unit.wasUsed) this.#counters.hits++;
      else this.#units.set(index, { layer, expert, wasUsed: true });
      if (unit.isEstimated && this.#forecast) this.#forecast.hits++;
      this.#counters.uses++;
      this.#numUses[index] = (this.#numUses[index] ?? 0) + 1;
      this.#lastUses[index] = this.#numLayersRun;
    }
    this.#numLayersRun++;
  }

  /**
   * Counts a whole step as run, if all units that it and the next step need are in memory. There is nothing to decide
   * for its layers then.
   *
   * @param experts - experts of the step, distinct
   * @param planned - experts that the next step certainly needs
   * @returns whether the step was counted; otherwise nothing has changed
   */
  ranWholeStep(experts: readonly number[], planned: readonly number[]): boolean {
    const { layout } = this.#plan;
    const needed = [...experts, ...planned];
    for (const layer of layout.layerBytes.keys()) {
      if (needed.some((expert) => !this.#units.has(this.#indexOf({ layer, expert })))) return false;
    }
    for (const layer of layout.layerBytes.keys()) this.ran(layer, experts);
    return true;
  }

  /**
   * Changes the limit, and decides what to evict, which counts as done.
   *
   * @param uses - uses of the running step; absent if none runs
   * @throws {RangeError} if a layer of the running step alone exceeds the new budget; the old budget stays
   */
  setBudget(budgetBytes: number, uses?: UseForecast): readonly EvictedUnit[] {
    integerOption("budgetBytes", budgetBytes, 0);
    const evict = planBudget(this.state, budgetBytes, uses, this.#plan);
    this.#budgetBytes = budgetBytes;
    this.#evict(evict);
    return evict;
  }

  /** Forgets an expert, whose number may then be another expert's. Its units in memory count as evicted. */
  forget(expert: number): readonly EvictedUnit[] {
    const own = Array.from(this.#units.values()).filter((unit) => unit.expert === expert);
    const evicted = own.map(({ layer }) => ({ layer, expert, nextUse: Infinity }));
    this.#evict(evicted);
    for (const layer of this.#plan.layout.layerBytes.keys()) {
      const index = this.#indexOf({ layer, expert });
      this.#numUses[index] = 0;
      this.#lastUses[index] = -1;
    }
    return evicted;
  }

  /** Checks the accounting. @throws {Error} with the numbers that do not agree */
  checkIntegrity(): void {
    const used = usedBytes(this.state, this.#plan.layout);
    if (used > this.#budgetBytes) {
      throw new Error(`The expert cache holds ${used} bytes, its budget is ${this.#budgetBytes}`);
    }
    const { uses, hits, loads, wastedLoads } = this.#counters;
    const unused = Array.from(this.#units.values()).filter(({ wasUsed }) => !wasUsed).length;
    if (uses - hits + wastedLoads + unused !== loads) {
      const counted = `${loads} loads; of ${uses} uses ${hits} hits, ${wastedLoads} wasted, ${unused} unused`;
      throw new Error(`The expert cache counts ${counted}`);
    }
    const held = Array.from(this.#units.values()).filter(({ isEstimated }) => isEstimated).length;
    const {
      loads: estimated,
      hits: right,
      wastedLoads: wasted,
    } = this.#forecast ?? { loads: 0, hits: 0, wastedLoads: 0 };
    if (right + wasted + held !== estimated) {
      throw new Error(`The forecast counts ${estimated} loads; ${right} hits, ${wasted} wasted, ${held} unused`);
    }
  }

  #evict(units: readonly EvictedUnit[]): void {
    for (const unit of units) this.#remove(unit);
    this.#counters.evictions += units.length;
  }

  #remove(unit: ExpertUnit): void {
    const index = this.#indexOf(unit);
    const held = this.#units.get(index);
    if (held?.wasUsed === false) {
      if (held.isEstimated && this.#forecast) this.#forecast.wastedLoads++;
      this.#counters.wastedLoads++;
      this.#counters.wastedBytes += this.#bytesOf(unit);
    }
    this.#units.delete(index);
  }

  #indexOf(unit: ExpertUnit): number {
    return unitIndex(unit, this.#plan.layout);
  }

  #bytesOf(unit: ExpertUnit): number {
    return unitBytes(unit, this.#plan.layout);
  }
}
