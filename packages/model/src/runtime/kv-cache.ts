/** Past positions are passed to the graph in multiples of this; those that are not filled yet are masked. */
export const KV_BLOCK_TOKENS = 64;

export interface KvShape {
  readonly numLayers: number;
  readonly numKvHeads: number;
  readonly headSize: number;
}

/**
 * Keys and values of one sequence's past, float32, zeros beyond `numTokens`.
 *
 * One array per layer for keys and one for values, `[numKvHeads, capacityTokens, headSize]`, so that the graph
 * reads a lone sequence in place.
 */
export class KvCache {
  readonly shape: KvShape;
  #numTokens = 0;
  #capacityTokens = 0;
  #keys: readonly Float32Array[];
  #values: readonly Float32Array[];

  constructor(shape: KvShape) {
    this.shape = shape;
    this.#keys = emptyLayers(shape, 0);
    this.#values = emptyLayers(shape, 0);
  }

  /** Positions `[0, numTokens)` are filled. */
  get numTokens(): number {
    return this.#numTokens;
  }

  /** Positions that there is memory for; a multiple of `KV_BLOCK_TOKENS`. */
  get capacityTokens(): number {
    return this.#capacityTokens;
  }

  /** Layer's keys, `[numKvHeads, capacityTokens, headSize]`. Owned by the cache; replaced when it grows. */
  keys(layer: number): Float32Array {
    return at(this.#keys, layer);
  }

  /** Layer's values, shaped as `keys`. */
  values(layer: number): Float32Array {
    return at(this.#values, layer);
  }

  /**
   * Appends tokens `[from, to)` of a step.
   * @param stepKeysValues - the graph's `new_keys_values`, `[stepTokens, 2 * numLayers, numKvHeads * headSize]`
   */
  append(stepKeysValues: Float32Array, from: number, to: number): void {
    this.#reserve(this.#numTokens + to - from);
    const { numLayers, numKvHeads, headSize } = this.shape;
    const rowSize = numKvHeads * headSize;
    for (let layer = 0; layer < numLayers; layer++) {
      for (const [part, target] of [this.keys(layer), this.values(layer)].entries()) {
        for (let token = from; token < to; token++) {
          const position = this.#numTokens + token - from;
          for (let head = 0; head < numKvHeads; head++) {
            const start = ((token * numLayers + layer) * 2 + part) * rowSize + head * headSize;
            target.set(
              stepKeysValues.subarray(start, start + headSize),
              (head * this.#capacityTokens + position) * headSize,
            );
          }
        }
      }
    }
    this.#numTokens += to - from;
  }

  #reserve(numTokens: number): void {
    const capacity = Math.ceil(numTokens / KV_BLOCK_TOKENS) * KV_BLOCK_TOKENS;
    if (capacity <= this.#capacityTokens) return;
    const grown = (layers: readonly Float32Array[]): readonly Float32Array[] =>
      emptyLayers(this.shape, capacity).map((layer, index) => {
        const { numKvHeads, headSize } = this.shape;
        const [oldStride, newStride] = [this.#capacityTokens * headSize, capacity * headSize];
        for (let head = 0; head < numKvHeads; head++) {
          layer.set(at(layers, index).subarray(head * oldStride, (head + 1) * oldStride), head * newStride);
        }
        return layer;
      });
    this.#keys = grown(this.#keys);
    this.#values = grown(this.#values);
    this.#capacityTokens = capacity;
  }
}

function emptyLayers({ numLayers, numKvHeads, headSize }: KvShape, capacityTokens: number): readonly Float32Array[] {
  return Array.from({ length: numLayers }, () => new Float32Array(numKvHeads * capacityTokens * headSize));
}

function at(layers: readonly Float32Array[], layer: number): Float32Array {
  const found = layers[layer];
  if (!found) throw new RangeError(`Expected \`layer\` to be below ${layers.length}, got \`${layer}\``);
  return found;
}
