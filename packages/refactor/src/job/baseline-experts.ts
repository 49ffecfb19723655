// Experts that results are compared with.

import { seededRandom } from "@readme-moe/core";
import { fitLayer, pooled, type FittedLayer, type FitSettings } from "../experts/fit-layer.ts";
import { fitPart } from "../experts/fit-part.ts";
import type { LayerExperts } from "../experts/layer-experts.ts";
import { fitProblem, type Moments } from "../experts/moments.ts";
import type { DenseDown } from "../layers/layer-source.ts";
import type { Products } from "../linear-algebra/products.ts";
import { shuffled } from "../random.ts";

/** One expert for everything, as wide as what a token uses, fitted like ours. */
export function staticLayer(
  moments: Moments,
  down: DenseDown,
  settings: FitSettings,
  products: Products,
): Promise<FittedLayer> {
  return fitLayer([moments], down, { ...settings, sharedSize: 0, refits: true }, products);
}

/** Neurons drawn by lot, fitted. */
export async function randomLayer(
  moments: readonly Moments[],
  down: DenseDown,
  { usedSize, ownShare, ridge }: FitSettings,
  products: Products,
  seed: number,
): Promise<LayerExperts> {
  const all = pooled(moments);
  const everything = Array.from({ length: down.weight.columns }, (_, neuron) => neuron);
  const random = seededRandom(seed);
  const experts = [];
  for (const own of moments) {
    const neurons = Int32Array.from(shuffled(everything, random() * 2 ** 32).slice(0, usedSize)).sort();
    experts.push(await fitPart(fitProblem(own, all, ownShare), neurons, down.weight, ridge, products));
  }
  return { shared: undefined, experts };
}
