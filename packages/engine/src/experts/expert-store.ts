// Experts in memory, within a hard limit of bytes. A unit is what is read and evicted at once: one layer of one expert,
// or a whole lora, whose layers are too small for reads of their own. Core's `ExpertCache` decides, once before each
// layer, what is evicted and read; this file holds the bytes, performs the reads, gives the kernel what is in memory,
// and measures. Slow reads delay a layer and change nothing else.

import {
  type EvictedUnit,
  ExpertCache,
  type ExpertCacheOptions,
  type ExpertCacheStats,
  type ExpertLayout,
  type ExpertUnit,
  integerOption,
  unitBytes,
  unitIndex,
  usedBytes,
  type UseForecast,
} from "@readme-moe/core";
import { LastingPlaces, type Places, UnitPlaces } from "./unit-places.ts";

/** Storage of the units of a kernel's experts, and their places in the kernel. */
export interface UnitSource extends ExpertLayout {
  /** Returns the smallest budget that steps can run with, and what it holds. @default one layer of all experts */
  leastBudget?(): { readonly bytes: number; readonly reason: string };
  /** Reads a unit to the beginning of `into`. */
  read(layer: number, expert: number, into: Uint8Array): Promise<void>;
  /** Gives the kernel a unit; `undefined` takes it away, before its memory holds another one or is returned. */
  place(layer: number, expert: number, unit: Uint8Array | undefined): void;
  /** Allocates memory that a unit can be read into. @default buffers that return their pages to the system */
  newMemory?: ((bytes: number) => Uint8Array) | undefined;
}

/** Budget of experts that all stay in memory. */
export const UNLIMITED_BYTES: number = Number.MAX_SAFE_INTEGER;

export interface ExpertStoreOptions extends Pick<ExpertCacheOptions, "budgetBytes" | "policy" | "lookaheadLayers"> {
  readonly onLoaded?: ((unit: ExpertUnit, bytes: number, durationMs: number) => void) | undefined;
  /** @param nextUse - in steps, certain or estimated; `Infinity` if no known token needs the unit */
  readonly onEvicted?: ((unit: ExpertUnit, nextUse: number) => void) | undefined;
  /** @default performance.now */
  readonly now?: (() => number) | undefined;
}

/** A unit in the cache, and its read. */
interface Holding {
  /** Absent until the read has begun. */
  memory?: Uint8Array | undefined;
  /** Present until the unit is placed; remains if the read fails. */
  read?: Promise<void> | undefined;
  /** Whether the unit was evicted during its read. */
  isEvicted: boolean;
}

/** A layer that was entered. */
interface Entered {
  /** Its uses; after it has run, those of the next layer. */
  readonly uses: UseForecast;
  /** Units of the layer; none after it has run. */
  readonly own: readonly Holding[];
  /** Bytes of reads for this layer that measure the speed of reading; 0 if others were in progress. */
  readonly measuredBytes: number;
}

/**
 * Units within a limit of bytes, of which the kernel has every one that is in memory. For each layer call `enter`, then
 * `run`.
 */
export class ExpertStore {
  readonly layout: ExpertLayout;
  readonly meter: ReadMeter = new ReadMeter();
  #cache: ExpertCache;
  readonly #source: UnitSource;
  readonly #options: ExpertStoreOptions;
  readonly #now: () => number;
  readonly #places: Places;
  readonly #holdings = new Map<number, Holding>();
  /** Reads of evicted units, whose memory is free when they end. */
  readonly #leaving = new Set<Promise<void>>();
  #entered: Entered | undefined;
  #isRehearsing = false;
  #failedReads = 0;
  #stallMs = 0;

  /** @throws {RangeError} if the budget is below the source's least one */
  constructor(source: UnitSource, options: ExpertStoreOptions) {
    const { numExperts, layerBytes, unitBytes: bytesOfUnits, newMemory } = source;
    this.layout = { numExperts, layerBytes, unitBytes: bytesOfUnits };
    this.#source = source;
    const budgetBytes = this.checkBudget(options.budgetBytes);
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    const largest = Math.max(...layerBytes);
    // Memory of a unit that is removed is not kept for another where there is no limit.
    const keptBytes = budgetBytes === UNLIMITED_BYTES ? 0 : budgetBytes;
    this.#places = newMemory ? new LastingPlaces(largest, newMemory) : new UnitPlaces(keptBytes, largest);
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

  /** Whether the kernel has these experts in all layers. */
  has(experts: readonly number[]): boolean {
    return Array.from(this.layout.layerBytes.keys()).every((layer) =>
      experts.every((expert) => {
        const holding = this.#holdings.get(this.#indexOf({ layer, expert }));
        return holding !== undefined && !holding.read;
      }),
    );
  }

  /** Evicts and begins to read what is decided for a layer and what follows, as far as there is room. */
  enter(uses: UseForecast): void {
    const { evict, load } = this.cache.enterLayer(uses);
    const isIdle = this.meter.pendingBytes === 0;
    this.#evict(evict);
    for (const unit of load) this.#begin(unit);
    const { layer } = uses;
    const awaited = load.filter((unit) => unit.layer === layer && !unit.isEstimated);
    const bytes = awaited.reduce((sum, unit) => sum + unitBytes(unit, this.layout), 0);
    const own = expertsAt(uses).flatMap((expert) => this.#holdings.get(this.#indexOf({ layer, expert })) ?? []);
    this.#entered = { uses, own, measuredBytes: isIdle ? bytes : 0 };
  }

  /**
   * Runs the layer that was entered as soon as the kernel has its units, which stay until `run` returns. Reads for
   * later layers continue meanwhile.
   *
   * @throws the error of reading a unit of this layer, or of `run`
   */
  async run(run: () => void): Promise<void> {
    if (!this.#entered) throw new Error("No layer was entered");
    const { uses, own, measuredBytes } = this.#entered;
    await this.#arrivalOf(own, measuredBytes);
    run();
    this.cache.ran(uses.layer, expertsAt(uses));
    this.passed({ ...uses, layer: uses.layer + 1 });
  }

  /** Notes the position between two layers, from which a change of the budget is decided. */
  passed(uses: UseForecast): void {
    this.#entered = { uses, own: [], measuredBytes: 0 };
  }

  /**
   * Changes the limit at once, without evicting units that the running layer needs. Resolves when no more memory is in
   * use; the memory of reads in progress follows when they end.
   *
   * @throws {RangeError} if one layer of all experts does not fit; the old limit stays
   */
  async setBudget(budgetBytes: number): Promise<void> {
    this.checkBudget(budgetBytes);
    this.#evict(this.cache.setBudget(budgetBytes, this.#entered?.uses));
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
      this.#entered = undefined;
      [this.#failedReads, this.#stallMs] = [0, 0];
      this.#isRehearsing = false;
    }
  }

  /** Checks a budget, and returns it. @throws {RangeError} if it is below the source's least one */
  checkBudget(budgetBytes: number): number {
    const { numExperts, layerBytes } = this.layout;
    const allBytes = numExperts * Math.max(...layerBytes);
    const all = { bytes: allBytes, reason: "which a step of all experts needs at once" };
    const { bytes: least, reason } = this.#source.leastBudget?.() ?? all;
    if (integerOption("expertCacheBytes", budgetBytes, 0) >= least) return budgetBytes;
    const expected = `at least ${least} bytes, ${reason}`;
    throw new RangeError(`Expected \`expertCacheBytes\` to be ${expected}, got \`${budgetBytes}\``);
  }

  #newCache(budgetBytes: number): ExpertCache {
    const { policy, lookaheadLayers } = this.#options;
    return new ExpertCache({ layout: this.layout, budgetBytes, policy, lookaheadLayers });
  }

  async #arrivalOf(own: readonly Holding[], measuredBytes: number): Promise<void> {
    const reads = own.flatMap(({ read }) => read ?? []);
    if (reads.length === 0) return;
    const startMs = this.#now();
    try {
      await Promise.all(reads);
      if (measuredBytes > 0) this.meter.measure(measuredBytes, this.#now() - startMs);
    } finally {
      this.#stallMs += this.#now() - startMs;
    }
  }

  #begin(unit: ExpertUnit): void {
    const holding: Holding = { isEvicted: false };
    this.#holdings.set(this.#indexOf(unit), holding);
    const bytes = unitBytes(unit, this.layout);
    this.meter.begin(bytes);
    holding.read = this.#read(unit, holding).finally(() => this.meter.end(bytes));
    // The layer that needs the unit gets the error, or the unit is read again; nothing awaits a read ahead.
    holding.read.catch(() => undefined);
  }

  async #read(unit: ExpertUnit, holding: Holding): Promise<void> {
    const { layer, expert } = unit;
    const bytes = unitBytes(unit, this.layout);
    const startMs = this.#now();
    let memory: Uint8Array | undefined;
    try {
      if (this.#leaving.size > 0) await Promise.allSettled(this.#leaving);
      if (holding.isEvicted) return;
      memory = this.#places.take(bytes);
      holding.memory = memory;
      await this.#source.read(layer, expert, memory);
      if (!holding.isEvicted) this.#source.place(layer, expert, memory);
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
      } else if (holding?.memory) {
        this.#source.place(layer, expert, undefined);
        this.#places.release(holding.memory);
      }
    }
  }

  #indexOf(unit: ExpertUnit): number {
    return unitIndex(unit, this.layout);
  }
}

/** Returns the experts of the layer that runs, none between two steps. */
function expertsAt({ layer, running }: UseForecast): readonly number[] {
  return running[layer] ?? [];
}

/** Bytes of the measurements from which older ones weigh half. */
const MEMORY_BYTES = 1 << 28;

/** Counts reads in progress, and estimates the speed of reading. */
class ReadMeter {
  #pendingBytes = 0;
  #bytes = 0;
  #ms = 0;

  /** Bytes of reads in progress. */
  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  /** Bytes that are read in a ms; `undefined` before the first measurement. */
  get bytesPerMs(): number | undefined {
    return this.#ms > 0 ? this.#bytes / this.#ms : undefined;
  }

  begin(bytes: number): void {
    this.#pendingBytes += bytes;
  }

  end(bytes: number): void {
    this.#pendingBytes -= bytes;
  }

  /** Adds reads that took a step's whole time, from the begin of the first one to the end of the last one. */
  measure(bytes: number, durationMs: number): void {
    this.#bytes += bytes;
    this.#ms += durationMs;
    if (this.#bytes < MEMORY_BYTES) return;
    this.#bytes /= 2;
    this.#ms /= 2;
  }
}
