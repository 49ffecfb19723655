// Units of experts in memory, within a hard limit of bytes. Core's `ExpertCache` decides, once before each layer, what
// is evicted and read; this class holds the bytes and performs the reads. Slow reads delay a layer and change nothing
// else.

import {
  ExpertCache,
  inEveryLayer,
  integerOption,
  type EvictedUnit,
  type ExpertCacheOptions,
  type ExpertCacheStats,
  type ExpertLayout,
  type ExpertRun,
  type ExpertUnit,
  type UpcomingUses,
  type UseForecast,
  unitBytes,
  unitIndex,
  usedBytes,
} from "@readme-moe/core";
import { type Holding, LastingPlaces, UnitPlaces, weightsOf, type Places } from "./unit-places.ts";

/** Reads units from where they are stored. */
export interface UnitReader extends ExpertLayout {
  /** Returns the smallest budget that steps can run with, and what it holds. @default one layer of all experts */
  leastBudget?(): { readonly bytes: number; readonly reason: string };
  /** Reads a unit to the beginning of `into`. */
  read(layer: number, expert: number, into: Uint8Array): Promise<void>;
}

export interface UnitMemoryOptions extends Pick<ExpertCacheOptions, "budgetBytes" | "policy" | "lookaheadLayers"> {
  readonly onLoaded?: ((unit: ExpertUnit, bytes: number, durationMs: number) => void) | undefined;
  /** @param nextUse - in steps, certain or estimated; `Infinity` if no known token needs the unit */
  readonly onEvicted?: ((unit: ExpertUnit, nextUse: number) => void) | undefined;
  /** Allocates memory that a unit can be read into. @default buffers that return their pages to the system */
  readonly newMemory?: ((bytes: number) => Uint8Array) | undefined;
  /** @default performance.now */
  readonly now?: (() => number) | undefined;
}

/** Progress of a run through all layers. */
interface Position extends ExpertRun {
  /** The layer that was entered; between two layers, the next one. */
  readonly layer: number;
  /** Units of the layer, in the order of `experts`. */
  readonly own: readonly Holding[];
}

export class UnitMemory {
  readonly layout: ExpertLayout;
  #cache: ExpertCache;
  readonly #reader: UnitReader;
  readonly #options: UnitMemoryOptions;
  readonly #now: () => number;
  readonly #places: Places;
  readonly #holdings = new Map<number, Holding>();
  /** Reads of evicted units, whose memory is free when they end. */
  readonly #leaving = new Set<Promise<void>>();
  #upcoming: UpcomingUses | undefined;
  /** Experts of the remaining runs of this step. */
  #nextRuns: readonly (readonly number[])[] = [];
  #runs: ExpertRun[] = [];
  #position: Position | undefined;
  #isRehearsing = false;
  #failedReads = 0;
  #stallMs = 0;

  /** @throws {RangeError} if the budget is below the reader's least one */
  constructor(reader: UnitReader, options: UnitMemoryOptions) {
    const { newMemory, now = () => performance.now() } = options;
    const { numExperts, layerBytes, unitBytes: bytesOfUnits } = reader;
    this.layout = { numExperts, layerBytes, unitBytes: bytesOfUnits };
    this.#reader = reader;
    const budgetBytes = this.#checkBudget(options.budgetBytes);
    this.#options = options;
    this.#now = now;
    const largest = Math.max(...this.layout.layerBytes);
    this.#places = newMemory ? new LastingPlaces(largest, newMemory) : new UnitPlaces(budgetBytes, largest);
    this.#cache = this.#newCache(budgetBytes);
  }

  get cache(): ExpertCache {
    return this.#cache;
  }

  /** Bytes that are allocated for units. */
  get takenBytes(): number {
    return this.#places.bytes;
  }

  get stats(): ExpertCacheStats {
    return {
      ...this.cache.counters,
      layerBytes: this.layout.layerBytes,
      budgetBytes: this.cache.budgetBytes,
      usedBytes: usedBytes(this.cache.state, this.layout),
      failedReads: this.#failedReads,
      stallMs: this.#stallMs,
    };
  }

  /** Announces the uses that follow the step that begins. */
  prepare(upcoming: UpcomingUses): void {
    this.#upcoming = upcoming;
  }

  /** Announces the distinct experts of the runs of this step, in order. */
  expectRuns(runs: readonly (readonly number[])[]): void {
    this.#nextRuns = runs;
  }

  /** Returns the runs that have ended since the last call. */
  takeRuns(): readonly ExpertRun[] {
    return this.#runs.splice(0);
  }

  /**
   * Runs all layers at once, if all units that this run and the next one need are in memory.
   *
   * @param run - receives the weights of each expert, by layer
   * @returns whether it ran; otherwise nothing has changed
   */
  runWholeStep(experts: readonly number[], run: (layers: readonly ReadonlyMap<number, Uint8Array>[]) => void): boolean {
    const nextRuns = this.#nextRuns.slice(1);
    const planned = nextRuns[0] ?? this.#upcoming?.planned ?? [];
    const layers: ReadonlyMap<number, Uint8Array>[] = [];
    for (const layer of this.layout.layerBytes.keys()) {
      const own = experts.map((expert) => this.#holdings.get(this.#indexOf({ layer, expert })));
      if (own.some((holding) => !holding || holding.read)) return false;
      layers.push(weightsOf(experts, own));
    }
    if (!this.cache.ranWholeStep(experts, planned)) return false;
    this.#nextRuns = nextRuns;
    run(layers);
    this.#advance(this.layout.layerBytes.length, { experts, planned });
    return true;
  }

  /**
   * Decides what is evicted and read for this layer, and for later ones as far as there is room, and begins the reads.
   * @param experts - experts of the run, distinct, ascending, the same in all layers
   */
  enterLayer(layer: number, experts: readonly number[]): void {
    if (layer === 0) this.#nextRuns = this.#nextRuns.slice(1);
    const planned = this.#nextRuns[0] ?? this.#upcoming?.planned ?? [];
    const { evict, load } = this.cache.enterLayer(this.#usesAt({ layer, experts, planned }));
    this.#evict(evict);
    for (const unit of load) this.#begin(unit);
    const own = experts.flatMap((expert) => this.#holdings.get(this.#indexOf({ layer, expert })) ?? []);
    this.#position = { layer, experts, planned, own };
  }

  /**
   * Runs the layer that was entered as soon as its units are in memory. Reads for later layers continue meanwhile.
   *
   * @param run - receives the weights of each of the layer's experts, which stay in memory until it settles
   * @throws the error of reading a unit of this layer, or of `run`
   */
  async runLayer(run: (units: ReadonlyMap<number, Uint8Array>) => Promise<void>): Promise<void> {
    if (!this.#position) throw new Error("No layer was entered");
    const { layer, experts, planned, own } = this.#position;
    await this.#arrivalOf(own);
    await run(weightsOf(experts, own));
    this.cache.ran(layer, experts);
    this.#advance(layer + 1, { experts, planned });
  }

  #advance(layer: number, run: ExpertRun): void {
    this.#position = { layer, ...run, own: [] };
    // If nothing announces uses, nothing takes the runs either.
    if (layer === this.layout.layerBytes.length && this.#upcoming) this.#runs.push(run);
  }

  /**
   * Changes the limit at once, without evicting units that the running layer needs. Resolves when no more memory is in
   * use; the memory of reads in progress follows when they end.
   *
   * @throws {RangeError} if one layer of all experts does not fit; the old limit stays
   */
  async setBudget(budgetBytes: number): Promise<void> {
    this.#checkBudget(budgetBytes);
    this.#evict(this.cache.setBudget(budgetBytes, this.#position && this.#usesAt(this.#position)));
    this.#places.setLimit(budgetBytes);
    await Promise.allSettled(this.#leaving);
  }

  /** Forgets an expert, whose number may then be another expert's. */
  forget(expert: number): void {
    this.#evict(this.cache.forget(expert));
  }

  /** Runs steps that are not counted, reported or remembered. Must not overlap with other steps. */
  async rehearse<Result>(work: () => Promise<Result>): Promise<Result> {
    this.#isRehearsing = true;
    try {
      return await work();
    } finally {
      const { budgetBytes } = this.cache.state;
      this.#evict(this.cache.setBudget(0));
      await Promise.allSettled(this.#leaving);
      this.#cache = this.#newCache(budgetBytes);
      this.#position = undefined;
      [this.#failedReads, this.#stallMs] = [0, 0];
      this.#isRehearsing = false;
    }
  }

  #newCache(budgetBytes: number): ExpertCache {
    const { policy, lookaheadLayers } = this.#options;
    return new ExpertCache({ layout: this.layout, budgetBytes, policy, lookaheadLayers });
  }

  #usesAt({ layer, experts, planned }: Omit<Position, "own">): UseForecast {
    const { layout } = this;
    const laterSteps = this.#upcoming?.laterSteps;
    return { layer, running: inEveryLayer(layout, experts), planned: inEveryLayer(layout, planned), laterSteps };
  }

  async #arrivalOf(own: readonly Holding[]): Promise<void> {
    const reads = own.flatMap(({ read }) => read ?? []);
    if (reads.length === 0) return;
    const startMs = this.#now();
    try {
      await Promise.all(reads);
    } finally {
      this.#stallMs += this.#now() - startMs;
    }
  }

  #begin(unit: ExpertUnit): void {
    const holding: Holding = { isEvicted: false };
    this.#holdings.set(this.#indexOf(unit), holding);
    holding.read = this.#read(unit, holding);
    // The layer that needs the unit gets the error, or the unit is read again; nothing awaits a read ahead.
    holding.read.catch(() => undefined);
  }

  async #read(unit: ExpertUnit, holding: Holding): Promise<void> {
    const bytes = unitBytes(unit, this.layout);
    const startMs = this.#now();
    let memory: Uint8Array | undefined;
    try {
      if (this.#leaving.size > 0) await Promise.allSettled(this.#leaving);
      if (holding.isEvicted) return;
      memory = this.#places.take(bytes);
      holding.memory = memory;
      await this.#reader.read(unit.layer, unit.expert, memory);
    } catch (error) {
      this.#failedReads++;
      if (memory) this.#places.release(memory);
      if (!holding.isEvicted) {
        this.#holdings.delete(this.#indexOf(unit));
        this.cache.failed(unit);
      }
      throw error;
    }
    holding.read = undefined;
    if (holding.isEvicted) this.#places.release(memory);
    else if (!this.#isRehearsing) this.#options.onLoaded?.(unit, bytes, this.#now() - startMs);
  }

  #evict(units: readonly EvictedUnit[]): void {
    for (const { layer, expert, nextUse } of units) {
      const index = this.#indexOf({ layer, expert });
      const holding = this.#holdings.get(index);
      this.#holdings.delete(index);
      if (!this.#isRehearsing) this.#options.onEvicted?.({ layer, expert }, nextUse);
      if (holding?.read) {
        holding.isEvicted = true;
        const ended = holding.read.catch(() => undefined).finally(() => this.#leaving.delete(ended));
        this.#leaving.add(ended);
      } else if (holding?.memory) this.#places.release(holding.memory);
    }
  }

  #checkBudget(budgetBytes: number): number {
    const { numExperts, layerBytes } = this.layout;
    const allBytes = numExperts * Math.max(...layerBytes);
    const all = { bytes: allBytes, reason: "which a step of all experts needs at once" };
    const { bytes: least, reason } = this.#reader.leastBudget?.() ?? all;
    if (integerOption("expertCacheBytes", budgetBytes, 0) >= least) return budgetBytes;
    const expected = `at least ${least} bytes, ${reason}`;
    throw new RangeError(`Expected \`expertCacheBytes\` to be ${expected}, got \`${budgetBytes}\``);
  }

  #indexOf(unit: ExpertUnit): number {
    return unitIndex(unit, this.layout);
  }
}
