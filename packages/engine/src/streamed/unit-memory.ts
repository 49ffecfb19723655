// Units of experts in memory, within a hard limit of bytes. What comes and goes is decided by core's `ExpertCache`, once
// before each layer; this keeps the bytes, and does the reads. How fast they are changes when a layer runs, and nothing else.

import {
  ExpertCache,
  integerOption,
  type EvictionPolicy,
  type EvictionPolicyName,
  type ExpertCacheStats,
  type ExpertLayout,
  type ExpertRun,
  type ExpertUnit,
  type KnownUses,
  type UpcomingUses,
  unitIndex,
  usedBytes,
} from "@readme-moe/core";
import { LastingPlaces, UnitPlaces, type Places } from "./unit-places.ts";

export interface UnitReader {
  readonly numExperts: number;
  readonly numLayers: number;
  /** Of one unit. */
  unitBytes(layer: number): number;
  /** To the beginning of `into`. */
  read(layer: number, expert: number, into: Uint8Array): Promise<void>;
}

export interface UnitMemoryOptions {
  /** All units in memory, those on their way included. */
  readonly budgetBytes: number;
  /** @default "belady" */
  readonly policy?: EvictionPolicyName | EvictionPolicy | undefined;
  /** How many layers ahead reads may evict for. @default 1 */
  readonly lookaheadLayers?: number | undefined;
  readonly onLoaded?: ((unit: ExpertUnit, bytes: number, durationMs: number) => void) | undefined;
  /** @param nextUse - in steps, sure or estimated; `Infinity` where nobody is known to need it */
  readonly onEvicted?: ((unit: ExpertUnit, nextUse: number) => void) | undefined;
  /** Memory that a unit can be read into. @default buffers that give their pages back */
  readonly newMemory?: ((bytes: number) => Uint8Array) | undefined;
  /** @default performance.now */
  readonly now?: (() => number) | undefined;
}

/** A unit that is in the cache's books, or its read. */
interface Holding {
  /** Absent until its read has begun. */
  memory?: Uint8Array | undefined;
  /** Until it is complete; stays when it fails. */
  read?: Promise<void> | undefined;
  /** It left the books while it was read. */
  isGone: boolean;
}

/** Where a run is. */
interface Position extends ExpertRun {
  /** That was entered, or has not been after the one that ran. */
  readonly layer: number;
  /** Of the layer's units, in the order of `experts`. */
  readonly own: readonly Holding[];
}

export class UnitMemory {
  #cache: ExpertCache;
  readonly layout: ExpertLayout;
  readonly #reader: UnitReader;
  readonly #options: UnitMemoryOptions;
  readonly #now: () => number;
  readonly #places: Places;
  readonly #holdings = new Map<number, Holding>();
  /** Reads of units that have left the books: their memory is free when they are over. */
  readonly #leaving = new Set<Promise<void>>();
  #upcoming: UpcomingUses | undefined;
  /** Experts of the runs that are known to come in this step. */
  #nextRuns: readonly (readonly number[])[] = [];
  #runs: ExpertRun[] = [];
  #position: Position | undefined;
  #isRehearsing = false;
  #failedReads = 0;
  #stallMs = 0;

  /** @throws {RangeError} when one layer of all experts does not fit: a step may need them together */
  constructor(reader: UnitReader, options: UnitMemoryOptions) {
    const { numExperts, numLayers } = reader;
    this.layout = { numExperts, layerBytes: Array.from({ length: numLayers }, (_, layer) => reader.unitBytes(layer)) };
    const budgetBytes = this.#checkBudget(options.budgetBytes);
    this.#reader = reader;
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    const largest = Math.max(...this.layout.layerBytes);
    const { newMemory } = options;
    this.#places = newMemory ? new LastingPlaces(largest, newMemory) : new UnitPlaces(budgetBytes, largest);
    this.#cache = this.#newCache(budgetBytes);
  }

  get cache(): ExpertCache {
    return this.#cache;
  }

  /** Bytes that are taken from the system for units. */
  get takenBytes(): number {
    return this.#places.bytes;
  }

  get stats(): ExpertCacheStats {
    return {
      ...this.cache.counters,
      layerBytes: this.layout.layerBytes,
      budgetBytes: this.cache.state.budgetBytes,
      usedBytes: usedBytes(this.cache.state, this.layout),
      failedReads: this.#failedReads,
      stallMs: this.#stallMs,
    };
  }

  /** Tells what comes after the step that begins. */
  prepare(upcoming: UpcomingUses): void {
    this.#upcoming = upcoming;
  }

  /** Tells the distinct experts of the runs that come now, one after the other. */
  expectRuns(runs: readonly (readonly number[])[]): void {
    this.#nextRuns = runs;
  }

  /** The runs that have ended since this was last called. */
  takeRuns(): readonly ExpertRun[] {
    return this.#runs.splice(0);
  }

  /**
   * Runs all layers at once, if all units that this run and the next one need are in memory. Nothing has to be decided or read then.
   *
   * @param run - gets the weights of each expert, by layer
   * @returns whether it ran; else nothing has changed
   */
  runWholeStep(experts: readonly number[], run: (layers: readonly ReadonlyMap<number, Uint8Array>[]) => void): boolean {
    const nextRuns = this.#nextRuns.slice(1);
    const planned = nextRuns[0] ?? this.#upcoming?.planned ?? [];
    const layers = this.layout.layerBytes.map((_, layer) =>
      experts.map((expert) => [expert, this.#holdings.get(this.#indexOf({ layer, expert }))] as const),
    );
    if (layers.flat().some(([, holding]) => !holding || holding.read)) return false;
    this.cache.allLoaded();
    if (!this.cache.ranWholeStep(experts, planned)) return false;
    this.#nextRuns = nextRuns;
    run(layers.map((units) => new Map(units.map(([expert, holding]) => [expert, holding?.memory as Uint8Array]))));
    this.#passed(this.#reader.numLayers, { experts, planned });
    return true;
  }

  /**
   * Decides what leaves and what is read for this layer, and for later ones as far as there is room; the reads begin.
   * @param experts - the run's, distinct, ascending, the same in all layers
   */
  enterLayer(layer: number, experts: readonly number[]): void {
    if (layer === 0) this.#nextRuns = this.#nextRuns.slice(1);
    const planned = this.#nextRuns[0] ?? this.#upcoming?.planned ?? [];
    const { evict, load } = this.cache.enterLayer(this.#usesAt({ layer, experts, planned }));
    for (const unit of evict) this.#evict(unit, unit.nextUse);
    for (const unit of load) this.#begin(unit);
    const own = experts.map((expert) => this.#holdings.get(this.#indexOf({ layer, expert })) as Holding);
    this.#position = { layer, experts, planned, own };
  }

  /**
   * Runs the layer that was entered, once its units are there; those of later layers come meanwhile.
   *
   * @param run - gets the weights of each of the layer's experts, which are there until it settles
   * @throws what reading a unit of this layer, or `run`, throws
   */
  async runLayer(run: (units: ReadonlyMap<number, Uint8Array>) => Promise<void>): Promise<void> {
    const { layer, experts, planned, own } = this.#position as Position;
    await this.#arrivalOf(own);
    await run(new Map(experts.map((expert, index) => [expert, own[index]?.memory as Uint8Array])));
    this.cache.allLoaded();
    this.cache.ran(layer, experts);
    this.#passed(layer + 1, { experts, planned });
  }

  /** Layers below `layer` have run; behind the last one the run is over. */
  #passed(layer: number, run: ExpertRun): void {
    this.#position = { layer, ...run, own: [] };
    // Without anybody who tells what comes, nobody takes runs either.
    if (layer === this.#reader.numLayers && this.#upcoming) this.#runs.push(run);
  }

  /**
   * Changes the limit, at once: nothing leaves that the layer which runs needs. Resolves when no more memory is taken;
   * that of reads under way follows when they are over.
   *
   * @throws {RangeError} when one layer of all experts does not fit; the old limit stays
   */
  async setBudget(budgetBytes: number): Promise<void> {
    this.#checkBudget(budgetBytes);
    this.cache.allLoaded();
    const { evict } = this.cache.setBudget(budgetBytes, this.#position && this.#usesAt(this.#position));
    for (const unit of evict) this.#evict(unit, unit.nextUse);
    this.#places.setLimit(budgetBytes);
    await Promise.allSettled(this.#leaving);
  }

  /** Runs steps that do not count: nobody is told of their reads, and nothing of them is left. Between other steps. */
  async rehearse<Result>(work: () => Promise<Result>): Promise<Result> {
    this.#isRehearsing = true;
    try {
      return await work();
    } finally {
      await this.#forget();
      this.#isRehearsing = false;
    }
  }

  async #forget(): Promise<void> {
    const { budgetBytes } = this.cache.state;
    this.cache.allLoaded();
    for (const unit of this.cache.setBudget(0).evict) this.#evict(unit, unit.nextUse);
    await Promise.allSettled(this.#leaving);
    this.#cache = this.#newCache(budgetBytes);
    this.#position = undefined;
    [this.#failedReads, this.#stallMs] = [0, 0];
  }

  #newCache(budgetBytes: number): ExpertCache {
    const { policy, lookaheadLayers } = this.#options;
    return new ExpertCache({ layout: this.layout, budgetBytes, policy, lookaheadLayers });
  }

  #usesAt({ layer, experts, planned }: Omit<Position, "own">): KnownUses {
    const everyLayer = (all: readonly number[]) => this.layout.layerBytes.map(() => all);
    const laterSteps = this.#upcoming?.laterSteps;
    return { layer, running: everyLayer(experts), planned: everyLayer(planned), laterSteps };
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
    const holding: Holding = { isGone: false };
    this.#holdings.set(this.#indexOf(unit), holding);
    holding.read = this.#read(unit, holding);
    // The layer that needs it gets the error, or reads again; a read ahead has nobody to tell.
    holding.read.catch(() => undefined);
  }

  async #read(unit: ExpertUnit, holding: Holding): Promise<void> {
    const { layer, expert } = unit;
    const bytes = this.#reader.unitBytes(layer);
    const startMs = this.#now();
    try {
      if (this.#leaving.size > 0) await Promise.allSettled(this.#leaving);
      if (holding.isGone) return;
      holding.memory = this.#places.take(bytes);
      await this.#reader.read(layer, expert, holding.memory);
    } catch (error) {
      this.#failedReads++;
      if (holding.memory) this.#places.release(holding.memory);
      if (!holding.isGone) {
        this.#holdings.delete(this.#indexOf(unit));
        this.cache.failed(unit);
      }
      throw error;
    }
    holding.read = undefined;
    if (holding.isGone) this.#places.release(holding.memory);
    else if (!this.#isRehearsing) this.#options.onLoaded?.(unit, bytes, this.#now() - startMs);
  }

  #evict(unit: ExpertUnit, nextUse: number): void {
    const index = this.#indexOf(unit);
    const holding = this.#holdings.get(index) as Holding;
    this.#holdings.delete(index);
    if (!this.#isRehearsing) this.#options.onEvicted?.({ layer: unit.layer, expert: unit.expert }, nextUse);
    if (!holding.read) return this.#places.release(holding.memory as Uint8Array);
    holding.isGone = true;
    const over = holding.read.catch(() => undefined).finally(() => this.#leaving.delete(over));
    this.#leaving.add(over);
  }

  #checkBudget(budgetBytes: number): number {
    const { numExperts, layerBytes } = this.layout;
    const least = numExperts * Math.max(...layerBytes);
    if (integerOption("expertCacheBytes", budgetBytes, 0) >= least) return budgetBytes;
    const expected = `at least ${least} bytes, which a step of all experts needs at once`;
    throw new RangeError(`Expected \`expertCacheBytes\` to be ${expected}, got \`${budgetBytes}\``);
  }

  #indexOf(unit: ExpertUnit): number {
    return unitIndex(unit, this.layout);
  }
}
