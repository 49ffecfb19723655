// Low-rank experts of a dense model that runs: their names, and their packed changes in the kernel, all of them in
// memory or as many as a budget holds. A unit is a whole expert.

import { open } from "node:fs/promises";
import { setImmediate as nextTurn } from "node:timers/promises";
import { ReadMeError, type ReadMeEvents, type Residency } from "@readme-moe/core";
import { changeBytes, type ChangeFactors, type ChangePrecision, type Kernel, packChange } from "@readme-moe/kernel";
import { cachedData, type LowRankExpert, type Model, openLowRankExpert } from "@readme-moe/model";
import { streamedResidency, UnitMemory, type UnitMemoryOptions, type UnitReader } from "../streamed/unit-store.ts";
import { UnitPlaces } from "../streamed/unit-places.ts";
import { ExpertNames, MAX_LOW_RANK_EXPERTS, NO_EXPERT } from "./routers.ts";

/** An expert that was added; payload of its event. */
export type AddedExpert = Parameters<ReadMeEvents["expert:added"]>[0];

export class LowRankExperts {
  readonly names: ExpertNames = new ExpertNames();
  /** Experts within a budget; `undefined` if all are in memory. */
  readonly streamed: StreamedChanges | undefined;
  readonly #memory: ChangeMemory;
  readonly #model: Model;
  readonly #packing: ChangePacking;
  /** Functions that compute the identity of each expert; expert 0 changes nothing. */
  readonly #identities = new Map<number, () => Promise<string>>([[0, async () => NO_EXPERT]]);

  private constructor(model: Model, packing: ChangePacking, memory: ResidentChanges | StreamedChanges) {
    this.#model = model;
    this.#packing = packing;
    this.#memory = memory;
    this.streamed = memory instanceof StreamedChanges ? memory : undefined;
  }

  /** Opens memory for experts, limited to `expertCacheBytes` if it is given. */
  static open(
    kernel: Kernel,
    model: Model,
    packing: ChangePacking,
    {
      expertCacheBytes: budgetBytes,
      ...options
    }: Omit<UnitMemoryOptions, "budgetBytes"> & { readonly expertCacheBytes?: number | undefined },
  ): LowRankExperts {
    const memory =
      budgetBytes === undefined
        ? new ResidentChanges(kernel)
        : new StreamedChanges(kernel, { ...options, budgetBytes });
    return new LowRankExperts(model, packing, memory);
  }

  /**
   * Adds an expert, in pieces between which steps run.
   *
   * @param path - folder of an adapter
   * @throws {RangeError} if the name is taken, there are too many experts, or `expertCacheBytes` is below its size
   * @throws {TypeError | ReadMeError} as `openLowRankExpert`; if a tensor cannot be read, or holds NaN
   */
  async add(name: string, path: string): Promise<AddedExpert> {
    const startMs = performance.now();
    const index = this.names.reserve(name);
    try {
      const expert = await openLowRankExpert(path, name, this.#model);
      try {
        const change = this.streamed ? await cachedChange(expert, this.#packing) : freshChange(expert, this.#packing);
        await this.#memory.add(index, change);
        this.#identities.set(index, () => changeKey(expert, this.#packing));
        this.names.setUsable(index, true);
        return { name, index, bytes: change.numBytes, durationMs: performance.now() - startMs };
      } finally {
        await expert.close();
      }
    } catch (error) {
      this.names.free(index);
      throw error;
    }
  }

  /**
   * Returns a text that depends on everything that an expert computes; `undefined` when there is no such expert, or its
   * files have changed since it was added.
   */
  async identityOf(index: number): Promise<string | undefined> {
    return this.#identities
      .get(index)?.()
      .catch(() => undefined);
  }

  /** Removes an expert that no sequence uses any more. */
  remove(index: number): void {
    this.#memory.remove(index);
    this.#identities.delete(index);
    this.names.free(index);
  }
}

/** Makes the error of a model that cannot have low-rank experts. */
export function notDense({ path }: Pick<Model, "path">): ReadMeError {
  const message = `${path}: low-rank experts need a dense model, and this one has experts in its FFNs`;
  return new ReadMeError("ERR_MODEL_UNSUPPORTED", message);
}

/** Memory of the experts of one kernel. */
interface ChangeMemory {
  /** Makes an expert available. @param index - from 1 */
  add(index: number, change: PackedChange): Promise<void>;
  /** Removes an expert that no row of a later step has. */
  remove(index: number): void;
}

/** Slot of an expert's change in the kernel. */
function slotOf(expert: number): number {
  return expert - 1;
}

/** All experts in memory. */
class ResidentChanges implements ChangeMemory {
  readonly #kernel: Kernel;
  // Its buffers begin on pages of the system, as the kernel needs them.
  readonly #places = new UnitPlaces(0, 0);
  readonly #memory = new Map<number, Uint8Array>();

  constructor(kernel: Kernel) {
    this.#kernel = kernel;
  }

  async add(index: number, change: PackedChange): Promise<void> {
    const memory = this.#places.take(change.numBytes);
    try {
      await change.read(memory);
      this.#kernel.placeChange(slotOf(index), memory);
    } catch (error) {
      this.#places.release(memory);
      throw error;
    }
    this.#memory.set(index, memory);
  }

  remove(index: number): void {
    const memory = this.#memory.get(index);
    if (!memory) return;
    this.#kernel.placeChange(slotOf(index), undefined);
    this.#memory.delete(index);
    this.#places.release(memory);
  }
}

/** Reads experts by index. Expert 0 has no bytes. */
class ChangeReader implements UnitReader {
  readonly numExperts = MAX_LOW_RANK_EXPERTS + 1;
  readonly unitBytes = new Float64Array(this.numExperts);
  /** Bytes of the largest expert. The cache's layout shares this array, which changes with the experts. */
  readonly layerBytes: [number] = [1];
  readonly #changes = new Map<number, PackedChange>();

  /** Sets or removes an expert. */
  set(index: number, change: PackedChange | undefined): void {
    if (change) this.#changes.set(index, change);
    else this.#changes.delete(index);
    this.unitBytes[index] = change?.numBytes ?? 0;
    this.layerBytes[0] = Math.max(1, ...Array.from(this.#changes.values(), ({ numBytes }) => numBytes));
  }

  leastBudget(): { readonly bytes: number; readonly reason: string } {
    return { bytes: this.layerBytes[0], reason: "the size of the largest low-rank expert" };
  }

  async read(_layer: number, expert: number, into: Uint8Array): Promise<void> {
    await this.#changes.get(expert)?.read(into);
  }
}

/** Experts within a budget of bytes. Those that are not in memory are read when they are needed. */
export class StreamedChanges implements ChangeMemory {
  readonly units: UnitMemory;
  readonly residency: Residency;
  readonly #kernel: Kernel;
  readonly #reader = new ChangeReader();
  /** Memory of each expert that the kernel was given last. */
  readonly #placed = new Map<number, Uint8Array>();

  constructor(kernel: Kernel, options: UnitMemoryOptions) {
    this.#kernel = kernel;
    this.units = new UnitMemory(this.#reader, {
      ...options,
      onReleased: ({ expert }) => this.#unplace(expert),
    });
    this.residency = streamedResidency(this.units, withoutNone);
  }

  /** Whether these experts fit in memory at once. */
  fit(experts: ReadonlySet<number>): boolean {
    const { unitBytes } = this.#reader;
    const bytes = Array.from(experts).reduce((sum, expert) => sum + (unitBytes[expert] ?? 0), 0);
    return bytes <= this.units.cache.budgetBytes;
  }

  async add(index: number, change: PackedChange): Promise<void> {
    const { budgetBytes } = this.units.cache;
    if (change.numBytes > budgetBytes) {
      const expected = `at least ${change.numBytes} bytes, the size of this low-rank expert`;
      throw new RangeError(`Expected \`expertCacheBytes\` to be ${expected}, got \`${budgetBytes}\``);
    }
    this.#reader.set(index, change);
  }

  remove(index: number): void {
    this.units.forget(index);
    this.#reader.set(index, undefined);
  }

  /** Announces the experts of a step's calls, in order. */
  expectRuns(runs: readonly (readonly number[])[]): void {
    this.units.expectRuns(runs.map(withoutNone));
  }

  /** Calls `run` as soon as these experts are in memory. */
  async run(experts: readonly number[], run: () => void): Promise<void> {
    const own = withoutNone(experts);
    const isWhole = this.units.runWholeStep(own, ([layer]) => {
      this.#place(layer);
      run();
    });
    if (isWhole) return;
    this.units.enterLayer(0, own);
    await this.units.runLayer(async (layer) => {
      this.#place(layer);
      run();
    });
  }

  #place(experts: ReadonlyMap<number, Uint8Array> = new Map()): void {
    for (const [expert, memory] of experts) {
      if (this.#placed.get(expert) === memory) continue;
      this.#kernel.placeChange(slotOf(expert), memory);
      this.#placed.set(expert, memory);
    }
  }

  /** Removes an expert from the kernel, whose memory may hold another one next. */
  #unplace(expert: number): void {
    if (this.#placed.delete(expert)) this.#kernel.placeChange(slotOf(expert), undefined);
  }
}

/** Leaves out expert 0, the model without a change. */
function withoutNone(experts: readonly number[]): readonly number[] {
  return experts.filter((expert) => expert > 0);
}

/** Options of `packedChange`. */
interface ChangePacking {
  readonly precision: ChangePrecision;
  /** Factors of the packed model's products. */
  readonly factors: ChangeFactors;
  /** Text that depends on everything that `factors` is made from. */
  readonly key: string;
  readonly cacheFolder: string;
}

/** A packed change. */
export interface PackedChange {
  readonly numBytes: number;
  /** Reads the change to the beginning of `into`. @throws {ReadMeError} `ERR_FILE_UNREADABLE` */
  read(into: Uint8Array): Promise<void>;
}

// Changes when other bytes are packed for the same expert.
const VERSION = 2;
// Packing takes a few ms per piece of this size, and steps of the engine run in between.
const PIECE_BYTES = 1 << 19;

/** Packs an expert whenever it is read, which must be before the expert is closed. */
function freshChange(expert: LowRankExpert, { precision, factors }: ChangePacking): PackedChange {
  return {
    numBytes: changeBytes(expert, precision),
    read: async (into) => {
      let end = 0;
      for await (const piece of inTurns(packChange(expert, precision, factors))) {
        into.set(piece, end);
        end += piece.length;
      }
    },
  };
}

/**
 * Packs an expert into the cache folder, or finds it there. It stays readable after the expert is closed.
 * @throws {ReadMeError} when a tensor cannot be read, or holds a number that is not finite; `ERR_WRITE_FAILED`
 */
async function cachedChange(expert: LowRankExpert, packing: ChangePacking): Promise<PackedChange> {
  const { precision, factors, cacheFolder } = packing;
  const numBytes = changeBytes(expert, precision);
  const key = await changeKey(expert, packing);
  const chunks = (): AsyncIterable<Uint8Array> => inTurns(packChange(expert, precision, factors));
  const note = "a packed low-rank expert";
  const path = await cachedData(cacheFolder, { kind: "experts", key, note, modelPath: expert.path, chunks });
  return { numBytes, read: (into) => readFile(path, into.subarray(0, numBytes)) };
}

/**
 * Returns a text that depends on everything that a packed change depends on. It may be called after the expert is
 * closed.
 */
async function changeKey(expert: LowRankExpert, { precision, key, cacheFolder }: ChangePacking): Promise<string> {
  return [await expert.fingerprint(cacheFolder), precision, VERSION, key].join(" ");
}

/** Joins pieces to larger ones, and lets other work run after each. */
async function* inTurns(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let waiting: Uint8Array[] = [];
  let numBytes = 0;
  for await (const piece of pieces) {
    waiting.push(piece);
    numBytes += piece.length;
    if (numBytes < PIECE_BYTES) continue;
    yield Buffer.concat(waiting);
    [waiting, numBytes] = [[], 0];
    await nextTurn();
  }
  yield Buffer.concat(waiting);
}

async function readFile(path: string, into: Uint8Array): Promise<void> {
  try {
    const file = await open(path);
    try {
      for (let done = 0; done < into.length;) {
        const { bytesRead } = await file.read(into, done, into.length - done, done);
        if (bytesRead === 0) throw new Error("the file ends too early");
        done += bytesRead;
      }
    } finally {
      await file.close();
    }
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ReadMeError("ERR_FILE_UNREADABLE", `${path}: a low-rank expert cannot be read: ${reason}`, { cause });
  }
}
