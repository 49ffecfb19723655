// Makes a layer's experts out of its statistics, and the experts that results are compared with.

import { seededRandom } from "@readme-moe/core";
import type { Products } from "../linear-algebra/products.ts";
import { shuffled } from "../random.ts";
import { eliminate, fitPart, relativeErrorOf, remainder, type FittedPart } from "./fit-part.ts";
import { densePart, type DenseDown, type LayerExperts } from "./layer-experts.ts";
import { fitProblem, pooled, type FitProblem, type Moments } from "./moments.ts";
import { contributions, topNeurons } from "./select.ts";

/**
 * Candidates of an elimination, as a multiple of the neurons that it keeps. Neurons with smaller contributions are
 * never kept, and the cost of an elimination grows with the third power of the candidates.
 */
const CANDIDATES = 1.5;

export interface FitSettings {
  /** Neurons that a token uses, shared ones included. */
  readonly usedSize: number;
  /** Neurons of these that all tokens use; 0 for none. */
  readonly sharedSize: number;
  /** Criterion for neurons: what each adds alone, or what the others cannot make up for. */
  readonly selection: "contribution" | "elimination";
  /** Whether the down-projection is fitted; the dense weights are kept otherwise. */
  readonly refits: boolean;
  /** Weight of an expert's own text, from 0 to 1; the text of all experts has the rest. */
  readonly ownShare: number;
  /** Ridge relative to the mean of the Gram matrix's diagonal. */
  readonly ridge: number;
}

/** Shared inputs of a layer's fits. */
export interface LayerFit {
  readonly dense: DenseDown;
  readonly settings: FitSettings;
  readonly products: Products;
}

export interface FittedLayer extends LayerExperts {
  /** Distance of each expert from the target on its own text, relative to the target's variance. */
  readonly relativeErrors: readonly number[];
}

/** Fits one expert for each entry of `moments`. */
export async function fitLayer(moments: readonly Moments[], fit: LayerFit): Promise<FittedLayer> {
  const { dense, settings, products } = fit;
  const { usedSize, sharedSize, ownShare } = settings;
  const all = pooled(moments);
  const everything = Int32Array.from({ length: dense.weight.columns }, (_, neuron) => neuron);
  const shared = sharedSize > 0 ? await chooseAndFit(fitProblem(all, all, 1), everything, sharedSize, fit) : undefined;
  const isShared = new Set(shared?.neurons);
  const candidates = everything.filter((neuron) => !isShared.has(neuron));
  const experts: FittedPart[] = [];
  for (const own of moments) {
    const problem = fitProblem(own, all, ownShare);
    const rest = shared ? await remainder(problem, shared, products) : problem;
    experts.push(await chooseAndFit(rest, candidates, usedSize - sharedSize, fit));
  }
  return { shared, experts, relativeErrors: experts.map(({ relativeError }) => relativeError) };
}

/** Fits randomly drawn neurons. */
export async function fitRandomLayer(
  moments: readonly Moments[],
  { dense, settings, products }: LayerFit,
  seed: number,
): Promise<LayerExperts> {
  const { usedSize, ownShare, ridge } = settings;
  const all = pooled(moments);
  const everything = Array.from({ length: dense.weight.columns }, (_, neuron) => neuron);
  const random = seededRandom(seed);
  const experts: FittedPart[] = [];
  for (const own of moments) {
    const neurons = Int32Array.from(shuffled(everything, random() * 2 ** 32).slice(0, usedSize)).sort();
    const problem = fitProblem(own, all, ownShare);
    experts.push(await fitPart({ problem, dense: dense.weight, ridge, products }, neurons));
  }
  return { shared: undefined, experts };
}

async function chooseAndFit(
  problem: FitProblem,
  candidates: Int32Array,
  size: number,
  { dense, settings: { selection, refits, ridge }, products }: LayerFit,
): Promise<FittedPart> {
  const scores = contributions(problem, dense.weight);
  const own = Float64Array.from(candidates, (neuron) => scores[neuron]!);
  const best = (count: number): Int32Array =>
    topNeurons(own, Math.min(count, candidates.length)).map((index) => candidates[index]!);
  const fit = { problem, dense: dense.weight, ridge, products };
  if (selection === "elimination" && refits) return eliminate(fit, best(Math.ceil(size * CANDIDATES)), size);
  if (refits) return fitPart(fit, best(size));
  const part = densePart(best(size), dense);
  return { ...part, relativeError: await relativeErrorOf(problem, part, products) };
}
