// Factors of an expert of low rank: parameters that are named like the inputs of the model's graph.

import { decodeFloats, encodeF16 } from "@readme-moe/model";
import { seededRandom } from "@readme-moe/core";
import { normals } from "../random.ts";
import type { DecoderWeights } from "../tuning/decoder/decoder-weights.ts";
import { LEFT, RIGHT, type Parameter } from "../tuning/parameters.ts";
import { graphName, weightOf, type Product } from "./products.ts";

/** One expert's factors, product by product: left `[rank, in]`, then right `[out, rank]`. */
export type Adapter = readonly Parameter[];

/** Makes an expert that changes nothing yet: left factors are random, right factors are zero. */
export function newAdapter(
  { layers }: Pick<DecoderWeights, "layers">,
  { products, rank, seed }: { readonly products: readonly Product[]; readonly rank: number; readonly seed: number },
): Adapter {
  const random = seededRandom(seed);
  return layers.flatMap((weights, layer) =>
    products.flatMap((product): Parameter[] => {
      const [out = 0, size = 0] = weightOf(weights, product).shape;
      const key = graphName(layer, product.half, product.name);
      const values = normals(rank * size, 1 / Math.sqrt(size), random);
      return [
        { key: key + LEFT, shape: [rank, size], values, isVector: false },
        { key: key + RIGHT, shape: [out, rank], values: new Float32Array(out * rank), isVector: false },
      ];
    }),
  );
}

export function copyAdapter(adapter: Adapter): Adapter {
  return adapter.map((factor) => ({ ...factor, values: factor.values.slice() }));
}

/** Rounds factors to half precision in place: the files hold what was measured. */
export function roundAdapter(adapter: Adapter): void {
  for (const { values } of adapter) values.set(decodeFloats(encodeF16(values), "F16"));
}

/** Joins changes of the same products to one, whose ranks are those of all, one after another. */
export function stackAdapters(adapters: readonly Adapter[]): Adapter {
  const [first = []] = adapters;
  if (adapters.length === 1) return first;
  const ranks = adapters.map(rankOf);
  const rank = ranks.reduce((sum, one) => sum + one, 0);
  return first.map((factor, place) => {
    const [rows = 0, columns = 0] = factor.shape;
    const isLeft = factor.key.endsWith(LEFT);
    const stacked = new Float32Array(isLeft ? rank * columns : rows * rank);
    let before = 0;
    adapters.forEach((adapter, index) => {
      const { values } = adapter[place]!;
      const own = ranks[index]!;
      if (isLeft) stacked.set(values, before * columns);
      else
        for (let row = 0; row < rows; row++)
          stacked.set(values.subarray(row * own, (row + 1) * own), row * rank + before);
      before += own;
    });
    return { ...factor, values: stacked, shape: isLeft ? [rank, columns] : [rows, rank] };
  });
}

/** Takes the part of one of the joined changes from an array like a factor of `stackAdapters`. */
export function unstack(
  { key, shape: [rows = 0, columns = 0] }: Adapter[number],
  values: Float32Array,
  { before, rank }: { readonly before: number; readonly rank: number },
): Float32Array {
  if (key.endsWith(LEFT)) return values.slice(before * columns, (before + rank) * columns);
  const part = new Float32Array(rows * rank);
  for (let row = 0; row < rows; row++) {
    const start = row * columns + before;
    part.set(values.subarray(start, start + rank), row * rank);
  }
  return part;
}

/** Returns the rank of a change; 0 for one of no products. */
export function rankOf(adapter: Adapter): number {
  return adapter[0]?.shape[0] ?? 0;
}

/**
 * Makes the factors of each row and rank of stacked experts: 1 for the ranks of the row's expert.
 *
 * @param routes - expert of each row; 0 is none, `k` is the expert at place `k - 1`
 */
export function routeMask(routes: Uint16Array, numAdapters: number, rank: number): Float32Array {
  const width = numAdapters * rank;
  const mask = new Float32Array(routes.length * width);
  routes.forEach((expert, row) => {
    if (expert > 0) mask.fill(1, row * width + (expert - 1) * rank, row * width + expert * rank);
  });
  return mask;
}
