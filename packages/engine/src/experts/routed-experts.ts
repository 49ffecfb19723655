// Steps of mixtures with a router in every layer, whose experts are not all in memory. Each layer is routed, then what
// is missing is read, and meanwhile what a forecast expects of the next layers.

import { setImmediate as nextTurn } from "node:timers/promises";
import {
  DEFAULT_READ_AHEAD,
  newReadAheadTrial,
  observeTrialStep,
  type ReadAheadOptions,
  type ReadAheadTrial,
  type Residency,
  RouteForecast,
  type UseEstimates,
} from "@readme-moe/core";
import type { Kernel, KernelPages, KvSlot, StepResults } from "@readme-moe/kernel";
import type { KernelCall } from "../kernel-calls.ts";
import { ExpertStore, type ExpertStoreOptions, type UnitSource } from "./expert-store.ts";

/** Mean number of rows of an expert in a call from which on few experts are not used: one in 50. */
const USES_OF_ALL = 4;

/** Part of a kernel that steps of a mixture need. */
export type RoutedKernel = Pick<Kernel, "beginStep" | "runLayers" | "routeLayer" | "feedLayer" | "endStep">;

export interface RoutedExpertsOptions extends ExpertStoreOptions {
  /** Number of experts that a layer chooses for a token. */
  readonly expertsPerToken: number;
  /**
   * Limits of the estimated uses that are read ahead; false forecasts nothing, so reads are on demand.
   * @default DEFAULT_READ_AHEAD where steps turn out to be faster with it, else forecasts serve eviction alone
   */
  readonly readAhead?: ReadAheadOptions | false | undefined;
}

/** The rows of a call of the kernel. */
interface MixtureRows {
  /** Number of each row's sequence; rows of one sequence are adjacent, in the order of their tokens. */
  readonly sequences: readonly number[];
  /** Rows with wanted logits, distinct, ascending: all that the last layer routes. */
  readonly wanted: readonly number[];
}

/** Finds the units of a mixture by number of the layers that have any. */
function mixtureUnits(
  source: UnitSource,
  expertsPerToken: number,
): UnitSource & { readonly layers: readonly number[] } {
  const layers = Array.from(source.layerBytes.keys()).filter((layer) => (source.layerBytes[layer] ?? 0) > 0);
  const layerBytes = layers.map((layer) => source.layerBytes[layer] ?? 0);
  const bytes = expertsPerToken * Math.max(...layerBytes);
  return {
    layers,
    layerBytes,
    numExperts: source.numExperts,
    newMemory: source.newMemory,
    leastBudget: () => ({ bytes, reason: `which a token needs for ${expertsPerToken} experts of one layer` }),
    read: (layer, expert, into) => source.read(layers[layer] ?? 0, expert, into),
    place: (layer, expert, unit) => source.place(layers[layer] ?? 0, expert, unit),
  };
}

/** Streamed experts of one kernel of a mixture, within a hard limit of bytes. */
export class RoutedExperts {
  readonly store: ExpertStore;
  readonly #kernel: RoutedKernel;
  /** The model's layers that are mixtures. */
  readonly #layers: readonly number[];
  readonly #numLayers: number;
  readonly #options: RoutedExpertsOptions;
  /** Limits of reads ahead; `undefined` if nothing is forecast. */
  readonly #readAhead: ReadAheadOptions | undefined;
  readonly #now: () => number;
  #forecast: RouteForecast | undefined;
  /** Measures whether to read ahead, where the options do not say. */
  #trial: ReadAheadTrial | undefined;
  /** Limit of bytes for the steps that begin from now on. */
  #budgetBytes: number;
  /** Bytes that a layer of the running step needs at most, and its end. */
  #running: { readonly bytes: number; readonly ended: Promise<unknown> } | undefined;
  /** Whether the next layer has so many rows that it uses nearly all experts: what is read ahead is needed. */
  #usesAll = false;
  /** Time in which the kernel ran the last layer. */
  #layerMs: number | undefined;

  /**
   * @param source - units by layer of the model; layers of 0 bytes are dense
   * @throws {RangeError} if the budget is too small for a token in one layer
   */
  constructor(kernel: RoutedKernel, source: UnitSource, options: RoutedExpertsOptions) {
    this.#kernel = kernel;
    const units = mixtureUnits(source, options.expertsPerToken);
    this.#layers = units.layers;
    this.#numLayers = source.layerBytes.length;
    this.#options = options;
    this.#readAhead = options.readAhead === false ? undefined : (options.readAhead ?? DEFAULT_READ_AHEAD);
    this.#now = options.now ?? (() => performance.now());
    // Nothing is certain of later layers, so no certain use is read ahead.
    this.store = new ExpertStore(units, { ...options, lookaheadLayers: 0 });
    this.#budgetBytes = options.budgetBytes;
    this.#restart();
  }

  /** Largest number of rows of a call whose experts of one layer fit in memory, whatever is chosen. */
  get maxRows(): number {
    const capacity = Math.floor(this.#budgetBytes / Math.max(...this.store.layout.layerBytes));
    return capacity >= this.store.layout.numExperts ? Infinity : Math.floor(capacity / this.#options.expertsPerToken);
  }

  get residency(): Residency {
    const { store } = this;
    return {
      missingBytes: [],
      streamed: {
        // Requests cannot name a mixture's experts, and nothing is known of them before a step.
        numExperts: 1,
        get stats() {
          return store.stats;
        },
        prefetchedExperts: [],
        prepare: () => undefined,
        rehearse: (work) => this.#rehearse(work),
        takeRuns: () => [],
        setBudget: (bytes) => this.setBudget(bytes),
      },
    };
  }

  /** Runs the calls of a step. @param numRows - largest number of rows of a call, at most `maxRows` */
  async runStep<Result>(numRows: number, run: () => Promise<Result>): Promise<Result> {
    const { numExperts, layerBytes } = this.store.layout;
    const units = Math.min(numExperts, numRows * this.#options.expertsPerToken);
    const result = run();
    this.#running = { bytes: units * Math.max(...layerBytes), ended: result.catch(() => undefined) };
    try {
      return await result;
    } finally {
      this.#running = undefined;
      // A step that failed needs nothing more.
      const running = layerBytes.map(() => []);
      this.store.passed({ layer: layerBytes.length, running, estimates: this.#estimates() });
    }
  }

  /** Runs one call of the kernel. */
  async step(pages: KernelPages, request: Int32Array, results: StepResults, rows: MixtureRows): Promise<void> {
    const kernel = this.#kernel;
    const all = Array.from(rows.sequences.keys());
    const rowsAt = (layer: number): readonly number[] => (layer === this.#numLayers - 1 ? rows.wanted : all);
    this.#forecast?.beginStep(rows.sequences);
    const startMs = this.#now();
    kernel.beginStep(pages, request, results);
    let [unitLayer, units] = [0, 0];
    for (let layer = 0; layer < this.#numLayers; layer++) {
      if (this.#layers[unitLayer] !== layer) {
        kernel.runLayers(layer, layer + 1);
        continue;
      }
      // Nothing is known of the rows of the next step.
      const next = this.#layers[unitLayer + 1];
      this.#usesAll = next !== undefined && this.#useAll(rowsAt(next));
      units += await this.#runLayer(layer, unitLayer++, rowsAt(layer));
    }
    kernel.endStep();
    if (!this.#useAll(all)) this.#trial &&= observeTrialStep(this.#trial, { ms: this.#now() - startMs, units });
  }

  #useAll(rows: readonly number[]): boolean {
    return rows.length * this.#options.expertsPerToken >= USES_OF_ALL * this.store.layout.numExperts;
  }

  /** @param rows - rows that the layer routes @returns number of units that they use */
  async #runLayer(layer: number, unitLayer: number, rows: readonly number[]): Promise<number> {
    const { store } = this;
    const startMs = this.#now();
    const routes = this.#kernel.routeLayer(layer);
    if (routes.length !== rows.length * this.#options.expertsPerToken) {
      throw new Error(`Layer ${layer} has ${routes.length} routes of ${rows.length} rows`);
    }
    const routedMs = this.#now() - startMs;
    // Reads that ended while the kernel ran are noticed in the next turn of the event loop.
    if (store.meter.pendingBytes > 0) await nextTurn();
    this.#forecast?.observe(unitLayer, routes, rows);
    const experts = Array.from(new Set(routes)).sort((a, b) => a - b);
    const running = store.layout.layerBytes.map((_, at) => (at === unitLayer ? experts : []));
    store.enter({ layer: unitLayer, running, estimates: this.#estimates() });
    await store.run(() => {
      const fedMs = this.#now();
      this.#kernel.feedLayer(layer);
      this.#layerMs = routedMs + this.#now() - fedMs;
    });
    return experts.length;
  }

  #estimates(): UseEstimates | undefined {
    const readAhead = this.#readAhead;
    if (!this.#forecast || !readAhead) return undefined;
    const { bytesPerMs, pendingBytes } = this.store.meter;
    const isMeasured = bytesPerMs !== undefined && this.#layerMs !== undefined;
    const layerReadBytes = isMeasured ? bytesPerMs * (this.#layerMs ?? 0) : undefined;
    const limits = this.#trial?.readsAhead === false && !this.#usesAll ? { ...readAhead, layersAhead: 0 } : readAhead;
    return { ...limits, chances: this.#forecast.chances, layerReadBytes, pendingBytes };
  }

  /**
   * Changes the limit: at once if the running step needs no more, else when it has ended. Resolves when the limit
   * holds. A later call supersedes an earlier one.
   *
   * @throws {RangeError} if it is too small for a token in one layer; the old limit stays
   */
  async setBudget(budgetBytes: number): Promise<void> {
    this.#budgetBytes = this.store.checkBudget(budgetBytes);
    while (this.#running && this.#running.bytes > this.#budgetBytes) await this.#running.ended;
    await this.store.setBudget(this.#budgetBytes);
  }

  async #rehearse<Result>(work: () => Promise<Result>): Promise<Result> {
    try {
      return await this.store.rehearse(work);
    } finally {
      this.#restart();
    }
  }

  /** Forgets what was learned from routes and times. */
  #restart(): void {
    const { numExperts, layerBytes } = this.store.layout;
    const { expertsPerToken } = this.#options;
    const { length: numLayers } = layerBytes;
    this.#forecast =
      this.#readAhead &&
      new RouteForecast({
        numLayers,
        numExperts,
        expertsPerToken,
        layersAhead: Math.min(Math.max(1, this.#readAhead.layersAhead), numLayers - 1),
      });
    this.#trial = this.#options.readAhead === undefined ? newReadAheadTrial() : undefined;
  }
}

/** Numbers the sequences of calls, so that a forecast recognises them in later steps. */
export class MixtureSequences {
  readonly #numbers = new WeakMap<KvSlot, number>();
  #count = 0;

  /** Describes the rows of a call. */
  rowsOf({ parts }: KernelCall): MixtureRows {
    const sequences: number[] = [];
    const wanted = new Set<number>();
    for (const { sequence, from, to, wanted: own } of parts) {
      for (const { token } of own) wanted.add(sequences.length + token - from);
      const number = this.#numberOf(sequence.slot);
      for (let token = from; token < to; token++) sequences.push(number);
    }
    return { sequences, wanted: Array.from(wanted).sort((a, b) => a - b) };
  }

  #numberOf(slot: KvSlot): number {
    let number = this.#numbers.get(slot);
    if (number === undefined) this.#numbers.set(slot, (number = this.#count++));
    return number;
  }
}
