// The floats of a KvPool: one array of keys and one of values per layer, allocated once. Knows places, not sequences.

import { ReadMeError } from "@readme-moe/core";
import type { Relocation } from "./kv-relocation.ts";
import type { KvShape } from "./kv-shape.ts";

/** Where a sequence's floats are, in each layer's keys and values. */
interface Place {
  /** First float of its slot. */
  readonly base: number;
  readonly slotTokens: number;
}

/** A range of positions. */
interface Positions {
  readonly from: number;
  readonly to: number;
}

export class ArenaMemory {
  readonly shape: KvShape;
  /** Keys of each layer, `[capacityTokens · numKvHeads · headSize]`. They start at zero. */
  readonly #keys: readonly Float32Array[];
  readonly #values: readonly Float32Array[];

  /** @throws {ReadMeError} `ERR_RUNTIME` when the system does not give so much */
  constructor(shape: KvShape, capacityTokens: number) {
    this.shape = shape;
    const slab = (): readonly Float32Array[] =>
      Array.from({ length: shape.numLayers }, () => allocate(capacityTokens * shape.numKvHeads * shape.headSize));
    this.#keys = slab();
    this.#values = slab();
  }

  /** Floats `[start, end)` of a layer's keys and values, in place. */
  view(layer: number, start: number, end: number): { readonly keys: Float32Array; readonly values: Float32Array } {
    const [keys, values] = [this.#keys[layer], this.#values[layer]];
    if (!keys || !values) throw new RangeError(`Expected \`layer\` to be below ${this.#keys.length}, got \`${layer}\``);
    return { keys: keys.subarray(start, end), values: values.subarray(start, end) };
  }

  /** Writes positions `[from, to)` from a step's output, beginning at float `source` of it. */
  writeStep({ base, slotTokens }: Place, { from, to }: Positions, stepKeysValues: Float32Array, source: number): void {
    const { numLayers, numKvHeads, headSize } = this.shape;
    let next = source;
    for (let position = from; position < to; position++) {
      for (let layer = 0; layer < numLayers; layer++) {
        for (const target of [this.#keys[layer] as Float32Array, this.#values[layer] as Float32Array]) {
          for (let head = 0; head < numKvHeads; head++) {
            const start = base + (head * slotTokens + position) * headSize;
            // Shorter than the call that would copy it.
            for (let i = 0; i < headSize; i++) target[start + i] = stepKeysValues[next + i] as number;
            next += headSize;
          }
        }
      }
    }
  }

  /** Copies positions `[from, to)`, `[2 * numLayers, numKvHeads, to - from, headSize]`, keys before values. */
  readBlock(place: Place, { from, to }: Positions): Float32Array {
    const { numLayers, numKvHeads, headSize } = this.shape;
    const block = new Float32Array(2 * numLayers * numKvHeads * (to - from) * headSize);
    this.#eachRun(place, { from, to }, (memory, start, length, offset) => {
      block.set(memory.subarray(start, start + length), offset);
    });
    return block;
  }

  /** Writes what `readBlock` gave. */
  writeBlock(place: Place, positions: Positions, block: Float32Array): void {
    this.#eachRun(place, positions, (memory, start, length, offset) => {
      memory.set(block.subarray(offset, offset + length), start);
    });
  }

  /** Moves what a relocation says. @returns the bytes copied */
  relocate({ save, moves, restore, scratchLength }: Relocation): number {
    const scratch = new Float32Array(scratchLength);
    for (const memory of [...this.#keys, ...this.#values]) {
      for (const { source, target, length } of save) scratch.set(memory.subarray(source, source + length), target);
      for (const { source, target, length } of moves) memory.copyWithin(target, source, source + length);
      for (const { source, target, length } of restore) memory.set(scratch.subarray(source, source + length), target);
    }
    const floats = [...save, ...moves].reduce((sum, copy) => sum + copy.length, 0);
    return floats * Float32Array.BYTES_PER_ELEMENT * 2 * this.shape.numLayers;
  }

  /** Calls `copy` with each contiguous run of floats of the positions, and its offset in a block. */
  #eachRun(
    { base, slotTokens }: Place,
    { from, to }: Positions,
    copy: (memory: Float32Array, start: number, length: number, offset: number) => void,
  ): void {
    const { numLayers, numKvHeads, headSize } = this.shape;
    const length = (to - from) * headSize;
    let offset = 0;
    for (let layer = 0; layer < numLayers; layer++) {
      for (const memory of [this.#keys[layer] as Float32Array, this.#values[layer] as Float32Array]) {
        for (let head = 0; head < numKvHeads; head++, offset += length) {
          copy(memory, base + (head * slotTokens + from) * headSize, length, offset);
        }
      }
    }
  }
}

function allocate(length: number): Float32Array {
  try {
    return new Float32Array(length);
  } catch (cause) {
    const megabytes = Math.round((length * Float32Array.BYTES_PER_ELEMENT) / 1e6);
    throw new ReadMeError("ERR_RUNTIME", `${megabytes} MB of KV memory per layer cannot be had`, { cause });
  }
}
