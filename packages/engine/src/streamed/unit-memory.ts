// Units of experts in memory, within a hard limit of bytes. What comes and goes is decided by core's `ExpertCache`; this keeps the
// bytes, in one slab that is taken once, so that nothing depends on when memory is collected, and does the reads.

import { ExpertCache, ReadMeError, type EvictionPolicyName, type ExpertUnit } from "@readme-moe/core";

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
  readonly policy?: EvictionPolicyName | undefined;
  readonly onLoaded?: ((unit: ExpertUnit, bytes: number, durationMs: number) => void) | undefined;
  /** @param nextUse - in steps; `Infinity` where the running step does not need the unit's expert */
  readonly onEvicted?: ((unit: ExpertUnit, nextUse: number) => void) | undefined;
  /** @default performance.now */
  readonly now?: (() => number) | undefined;
}

export class UnitMemory {
  readonly cache: ExpertCache;
  /** Units that fit. */
  readonly capacity: number;
  readonly #reader: UnitReader;
  readonly #options: UnitMemoryOptions;
  readonly #free: Uint8Array[];
  readonly #memoryOf = new Map<number, Uint8Array>();
  readonly #reads = new Map<number, Promise<void>>();

  /** @throws {RangeError} when one layer of all experts does not fit: a step may need them together */
  constructor(reader: UnitReader, options: UnitMemoryOptions) {
    const { numExperts, numLayers } = reader;
    const unitBytes = Math.max(...Array.from({ length: numLayers }, (_, layer) => reader.unitBytes(layer)));
    this.capacity = Math.min(Math.floor(options.budgetBytes / unitBytes), numLayers * numExperts);
    if (this.capacity < numExperts) {
      const least = `at least ${numExperts * unitBytes} bytes, one layer of all experts`;
      throw new RangeError(`Expected \`expertCacheBytes\` to be ${least}, got \`${options.budgetBytes}\``);
    }
    this.#reader = reader;
    this.#options = options;
    const slab = new Uint8Array(this.capacity * unitBytes);
    this.#free = Array.from({ length: this.capacity }, (_, place) =>
      slab.subarray(place * unitBytes, (place + 1) * unitBytes),
    );
    // Every unit takes a whole place of the slab, also where layers differ in size.
    const layerBytes = Array.from({ length: numLayers }, () => unitBytes);
    const budgetBytes = this.capacity * unitBytes;
    this.cache = new ExpertCache({ layout: { numExperts, layerBytes }, budgetBytes, policy: options.policy });
  }

  /**
   * Runs a layer's experts, in their order, while their units are in memory; units of later layers come meanwhile.
   *
   * @param experts - the step's, distinct, the same in all layers
   * @param run - gets each one's weights, which are there until it settles
   * @throws what reading a unit of this layer, or `run`, throws
   */
  async runLayer(
    layer: number,
    experts: readonly number[],
    run: (expert: number, memory: Uint8Array) => Promise<void>,
  ): Promise<void> {
    while (!this.readAhead(layer, experts)) {
      const own = experts.flatMap((expert) => this.#reads.get(this.#indexOf({ layer, expert })) ?? []);
      await (own.length > 0 ? Promise.all(own) : this.#nextRead());
    }
    for (const expert of experts) await run(expert, this.#memoryOf.get(this.#indexOf({ layer, expert })) as Uint8Array);
    this.cache.ran(layer, experts);
  }

  /** Begins reads for a layer, and as far ahead as there is room. @returns whether the layer can run */
  readAhead(layer: number, experts: readonly number[]): boolean {
    const { numLayers, numExperts } = this.#reader;
    const laterSteps = new Float64Array(numExperts).fill(Infinity);
    // Most tokens keep their expert, so the next step is expected to be like this one.
    for (const expert of experts) laterSteps[expert] = 1;
    const running = Array.from({ length: numLayers }, () => experts);
    const { evict, load, isReady } = this.cache.plan({ layer, running, laterSteps });
    for (const unit of evict) {
      this.#release(unit);
      this.#options.onEvicted?.({ layer: unit.layer, expert: unit.expert }, unit.nextUse);
    }
    for (const unit of load) this.#begin(unit);
    return isReady;
  }

  /** One of the reads under way is over: what a layer needs may wait for the room that they take. */
  async #nextRead(): Promise<void> {
    if (this.#reads.size === 0) throw new ReadMeError("ERR_RUNTIME", "No memory is free for a layer of experts");
    await Promise.race(this.#reads.values()).catch(() => undefined);
  }

  #begin(unit: ExpertUnit): void {
    const index = this.#indexOf(unit);
    const memory = this.#free.pop() as Uint8Array;
    this.#memoryOf.set(index, memory);
    const read = this.#read(unit, memory).finally(() => this.#reads.delete(index));
    // The layer that needs it gets the error, or reads again; a read ahead has nobody to tell.
    read.catch(() => undefined);
    this.#reads.set(index, read);
  }

  async #read(unit: ExpertUnit, memory: Uint8Array): Promise<void> {
    const { now = () => performance.now(), onLoaded } = this.#options;
    const startMs = now();
    try {
      await this.#reader.read(unit.layer, unit.expert, memory);
    } catch (error) {
      this.cache.failed(unit);
      this.#release(unit);
      throw error;
    }
    this.cache.loaded(unit);
    onLoaded?.(unit, this.#reader.unitBytes(unit.layer), now() - startMs);
  }

  #release(unit: ExpertUnit): void {
    const index = this.#indexOf(unit);
    this.#free.push(this.#memoryOf.get(index) as Uint8Array);
    this.#memoryOf.delete(index);
  }

  #indexOf({ layer, expert }: ExpertUnit): number {
    return layer * this.#reader.numExperts + expert;
  }
}
