// Weights in memory as frozen products.

import type { Frozen } from "../../packages/refactor/src/graphs/staged-session.ts";
import type { DecoderWeights, Weight, WeightGroup } from "../../packages/refactor/src/tuning/weights.ts";

export type Freeze = (weight: Weight) => Frozen | Promise<Frozen>;

/** Replaces matrices by frozen products. */
export async function frozenWeights(
  { layers, head, embedding, ...rest }: DecoderWeights,
  freeze: Freeze,
): Promise<DecoderWeights> {
  const none = new Float32Array(0);
  const group = async (weights: WeightGroup): Promise<WeightGroup> => {
    const entries = [...weights].map(async ([name, weight]): Promise<[string, Weight]> => {
      if (!name.endsWith(".weight")) return [name, weight];
      return [name, { key: weight.key, shape: weight.shape, values: none, frozen: await freeze(weight) }];
    });
    return new Map(await Promise.all(entries));
  };
  const size = rest.finalNorm.values.length;
  return {
    ...rest,
    embedding,
    head: none,
    headProduct: await freeze({ key: "head", shape: [head.length / size, size], values: head }),
    layers: await Promise.all(
      layers.map(async ({ attention, common, experts }) => ({
        attention: await group(attention),
        common: await group(common),
        experts: await Promise.all(experts.map(group)),
      })),
    ),
  };
}

/** Multiplies in double precision. */
export function exactProduct({ shape: [numOut = 0, numIn = 0], values }: Weight): Frozen {
  return {
    forward: (rows) => multiplied(rows, [numIn, numOut], (out, i) => values[out * numIn + i]!),
    backward: (rows) => multiplied(rows, [numOut, numIn], (out, i) => values[i * numIn + out]!),
  };
}

function multiplied(
  rows: Float32Array,
  [width, numOut]: readonly [number, number],
  weightAt: (out: number, i: number) => number,
): Float32Array {
  return Float32Array.from({ length: (rows.length / width) * numOut }, (_, place) => {
    const [row, out] = [Math.floor(place / numOut), place % numOut];
    let sum = 0;
    for (let i = 0; i < width; i++) sum += rows[row * width + i]! * weightAt(out, i);
    return sum;
  });
}
