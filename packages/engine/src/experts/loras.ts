// Loras of a dense model that runs: their names, and their packed bytes in the kernel, all of them or as many as a
// budget holds. A unit is a whole lora: its layers are too small for reads of their own.

import { open } from "node:fs/promises";
import { setImmediate as nextTurn } from "node:timers/promises";
import { ReadMeError, type ReadMeEvents } from "@readme-moe/core";
import { type Kernel, loraBytes, type LoraFactors, type LoraPrecision, packLora } from "@readme-moe/kernel";
import { cachedData, gatherExperts, type Lora, type LoraSet, type Model, openLora } from "@readme-moe/model";
import type { EngineCore } from "../engine-core.ts";
import type { EngineOutput } from "../engine-parts.ts";
import { type ExpertStoreOptions, UNLIMITED_BYTES, type UnitSource } from "./expert-store.ts";
import { NamedExperts } from "./named-experts.ts";
import { ExpertNames, MAX_LORAS, NO_EXPERT, type Routers } from "./routers.ts";
import { readAt, unreadable } from "./unit-file.ts";

type AddedExpert = Parameters<ReadMeEvents["expert:added"]>[0];

/** Receives the events of experts. */
export type OnExpertAdded = (event: AddedExpert) => void;

/** Numbers that a model's loras are packed with. */
interface LoraPacking {
  readonly precision: LoraPrecision;
  /** Factors of the packed model's products. */
  readonly factors: LoraFactors;
  /** Text that depends on everything that `factors` is made from. */
  readonly key: string;
  readonly cacheFolder: string;
}

export class Loras {
  readonly names: ExpertNames = new ExpertNames();
  /** Loras within a budget; `undefined` if all are in memory. */
  readonly streamed: NamedExperts | undefined;
  readonly #experts: NamedExperts;
  readonly #units: LoraUnits;
  readonly #model: Model;
  readonly #packing: LoraPacking;
  /** Functions that compute the identity of each expert; expert 0 changes nothing. */
  readonly #identities = new Map<number, () => Promise<string>>([[0, async () => NO_EXPERT]]);

  /** @param streaming - budget of the loras in memory, and what else reads need; absent if all stay there */
  constructor(kernel: Kernel, model: Model, packing: LoraPacking, streaming: ExpertStoreOptions | undefined) {
    this.#model = model;
    this.#packing = packing;
    this.#units = new LoraUnits(kernel);
    this.#experts = new NamedExperts(kernel, this.#units, streaming ?? { budgetBytes: UNLIMITED_BYTES });
    this.streamed = streaming && this.#experts;
  }

  /**
   * Adds an expert, in pieces between which steps run.
   *
   * @param path - folder of an adapter
   * @throws {RangeError} if the name is taken, there are too many experts, or `expertCacheBytes` is below its size
   * @throws {TypeError | ReadMeError} as `openLora`; if a tensor cannot be read, or holds NaN
   */
  async add(name: string, path: string): Promise<AddedExpert> {
    const startMs = performance.now();
    const index = this.names.reserve(name);
    try {
      const lora = await openLora(path, name, this.#model);
      try {
        const packed = this.streamed ? await cachedLora(lora, this.#packing) : freshLora(lora, this.#packing);
        this.#units.set(index, packed, this.#experts.store.cache.budgetBytes);
        if (!this.streamed) await this.#experts.load(index);
        this.#identities.set(index, () => keyOf(lora, this.#packing));
        this.names.setUsable(index, true);
        return { name, index, bytes: packed.numBytes, durationMs: performance.now() - startMs };
      } finally {
        await lora.close();
      }
    } catch (error) {
      this.#units.remove(index);
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
    this.#experts.store.forget(index);
    this.#units.remove(index);
    this.#identities.delete(index);
    this.names.free(index);
  }
}

/** Packed loras by index. Expert 0, the model itself, has no bytes. */
export class LoraUnits implements UnitSource {
  readonly numExperts: number = MAX_LORAS + 1;
  readonly unitBytes: Float64Array = new Float64Array(this.numExperts);
  /** Bytes of the largest lora. The cache's layout shares this array, which changes with the experts. */
  readonly layerBytes: [number] = [1];
  readonly #kernel: Pick<Kernel, "placeLora">;
  readonly #packed = new Map<number, PackedLora>();

  constructor(kernel: Pick<Kernel, "placeLora">) {
    this.#kernel = kernel;
  }

  /** Sets a lora. @throws {RangeError} if it is larger than `mostBytes` */
  set(index: number, packed: PackedLora, mostBytes: number): void {
    if (packed.numBytes > mostBytes) {
      const expected = `at least ${packed.numBytes} bytes, the size of this lora`;
      throw new RangeError(`Expected \`expertCacheBytes\` to be ${expected}, got \`${mostBytes}\``);
    }
    this.#packed.set(index, packed);
    this.unitBytes[index] = packed.numBytes;
    this.layerBytes[0] = Math.max(...this.unitBytes);
  }

  remove(index: number): void {
    this.#packed.delete(index);
    this.unitBytes[index] = 0;
    this.layerBytes[0] = Math.max(1, ...this.unitBytes);
  }

  leastBudget(): { readonly bytes: number; readonly reason: string } {
    return { bytes: this.layerBytes[0], reason: "the size of the largest lora" };
  }

  async read(_layer: number, expert: number, into: Uint8Array): Promise<void> {
    await this.#packed.get(expert)?.read(into);
  }

  place(_layer: number, expert: number, unit: Uint8Array | undefined): void {
    this.#kernel.placeLora(expert - 1, unit);
  }
}

export interface PackedLora {
  readonly numBytes: number;
  /** Reads it to the beginning of `into`. @throws {ReadMeError} `ERR_FILE_UNREADABLE` */
  read(into: Uint8Array): Promise<void>;
}

// Changes when other bytes are packed for the same expert.
const VERSION = 2;
// Packing takes a few ms per piece of this size, and steps of the engine run in between.
const PIECE_BYTES = 1 << 19;

/** Packs a lora whenever it is read, which must be before it is closed. */
function freshLora(lora: Lora, { precision, factors }: LoraPacking): PackedLora {
  return {
    numBytes: loraBytes(lora, precision),
    read: async (into) => {
      let end = 0;
      for await (const piece of inTurns(packLora(lora, precision, factors))) {
        into.set(piece, end);
        end += piece.length;
      }
    },
  };
}

/**
 * Packs a lora into the cache folder, or finds it there. It stays readable after it is closed.
 * @throws {ReadMeError} when a tensor cannot be read, or holds a number that is not finite; `ERR_WRITE_FAILED`
 */
async function cachedLora(lora: Lora, packing: LoraPacking): Promise<PackedLora> {
  const { precision, factors, cacheFolder } = packing;
  const numBytes = loraBytes(lora, precision);
  const key = await keyOf(lora, packing);
  const chunks = (): AsyncIterable<Uint8Array> => inTurns(packLora(lora, precision, factors));
  const note = "a packed lora";
  const path = await cachedData(cacheFolder, { kind: "experts", key, note, modelPath: lora.path, chunks });
  return {
    numBytes,
    read: async (into) => {
      try {
        const file = await open(path);
        await readAt(file, into.subarray(0, numBytes), 0).finally(() => file.close());
      } catch (cause) {
        throw unreadable(path, "a lora", cause);
      }
    },
  };
}

/** Returns a text that depends on everything that a packed lora depends on, also after the lora is closed. */
async function keyOf(lora: Lora, { precision, key, cacheFolder }: LoraPacking): Promise<string> {
  return [await lora.fingerprint(cacheFolder), precision, VERSION, key].join(" ");
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

/**
 * Adds a dense model's loras to its runner: those of its folder, then further ones.
 *
 * @param loras - folders of adapters or expert sets, by name
 * @returns the set of all, which the caller closes
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` if the model is not dense; as `gatherExperts` and `Loras.add`
 */
export async function openExperts(
  runner: { readonly loras: Loras | undefined },
  model: Model,
  loras: Readonly<Record<string, string>> = {},
  onAdded?: OnExpertAdded,
): Promise<LoraSet> {
  if (!runner.loras && Object.keys(loras).length > 0) throw notDense(model);
  const set = await gatherExperts(model, loras);
  try {
    for (const { name, path } of set.experts) {
      const added = await runner.loras?.add(name, path);
      if (added) onAdded?.(added);
    }
    return set;
  } catch (error) {
    await set.close();
    throw error;
  }
}

/** Parts of an engine whose loras change while it runs. */
export interface LoraParts {
  readonly loras: Loras;
  readonly routers: Routers;
  readonly core: EngineCore;
  readonly output: EngineOutput;
}

/** Adds an expert, see `Engine.addExpert`. @param parts - absent where the model is not dense */
export async function addExpert(model: Model, parts: LoraParts | undefined, name: string, path: string): Promise<void> {
  if (!parts) throw notDense(model);
  parts.output.event("expert:added", await parts.loras.add(name, path));
}

/** Removes an expert, see `Engine.removeExpert`. @param parts - absent where the model is not dense */
export async function removeExpert(model: Model, parts: LoraParts | undefined, name: string): Promise<void> {
  if (!parts) throw notDense(model);
  const { loras, routers, core, output } = parts;
  // Refuses also an expert that is being added or removed.
  const index = loras.names.indexOf(name);
  loras.names.setUsable(index, false);
  const fixed = routers.forget(index);
  // A request may have its router and no sequence yet.
  await nextTurn();
  await core.whenNone(({ router, experts }) => router === fixed || experts.includes(index));
  loras.remove(index);
  core.forgetExpert(index);
  output.event("expert:removed", { name, index });
}

function notDense({ path }: Pick<Model, "path">): ReadMeError {
  const message = `${path}: loras need a dense model, and this one has experts in its FFNs`;
  return new ReadMeError("ERR_MODEL_UNSUPPORTED", message);
}
