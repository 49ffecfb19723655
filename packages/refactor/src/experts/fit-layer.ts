// A layer's experts out of its statistics.

import type { DenseDown } from "../layers/layer-source.ts";
import type { Products } from "../linear-algebra/products.ts";
import { eliminate } from "./eliminate.ts";
import { densePart, fitPart, relativeErrorOf, remainder, type FittedPart } from "./fit-part.ts";
import type { LayerExperts } from "./layer-experts.ts";
import { addMoments, emptyMoments, fitProblem, type FitProblem, type Moments } from "./moments.ts";
import { contributions, topNeurons } from "./select.ts";

/**
 * Elimination begins with so many times the neurons that it leaves, those that put out most: those far behind never
 * stay, and its cost grows with the third power.
 */
const CANDIDATES = 1.5;

export interface FitSettings {
  /** Neurons that a token uses, shared ones included. */
  readonly usedSize: number;
  /** Neurons of these that all tokens use, 0 for none. */
  readonly sharedSize: number;
  /** How neurons are chosen: by what each adds alone, or by what the others cannot make up for. */
  readonly selection: "contribution" | "elimination";
  /** Fits the down-projection anew; else the dense weights stay. */
  readonly refits: boolean;
  /** Weight of an expert's own text, from 0 to 1; the rest is everybody's. */
  readonly ownShare: number;
  /** Relative to the mean of the Gram matrix's diagonal. */
  readonly ridge: number;
}

/** A layer's experts, and how far each is from the target on its own text, relative to the target's variance. */
export interface FittedLayer extends LayerExperts {
  readonly relativeErrors: readonly number[];
}

export function pooled(moments: readonly Moments[]): Moments {
  const [only] = moments;
  if (only && moments.length === 1) return only;
  const all = emptyMoments(moments[0]?.neuronSums.length ?? 0, moments[0]?.targetSums.length ?? 0);
  for (const one of moments) addMoments(all, one);
  return all;
}

/**
 * One expert per entry of `moments`.
 */
export async function fitLayer(
  moments: readonly Moments[],
  dense: DenseDown,
  settings: FitSettings,
  products: Products,
): Promise<FittedLayer> {
  const all = pooled(moments);
  const everything = Int32Array.from({ length: dense.weight.columns }, (_, neuron) => neuron);
  const { usedSize, sharedSize } = settings;
  const common = sharedSize > 0 ? fitProblem(all, all, 1) : undefined;
  const shared = common && (await chooseAndFit(common, everything, sharedSize, dense, settings, products));
  const isShared = new Set(shared?.neurons);
  const candidates = everything.filter((neuron) => !isShared.has(neuron));
  const experts: FittedPart[] = [];
  for (const own of moments) {
    const problem = fitProblem(own, all, settings.ownShare);
    const rest = shared ? await remainder(problem, shared, products) : problem;
    experts.push(await chooseAndFit(rest, candidates, usedSize - sharedSize, dense, settings, products));
  }
  return { shared, experts, relativeErrors: experts.map(({ relativeError }) => relativeError) };
}

async function chooseAndFit(
  problem: FitProblem,
  candidates: Int32Array,
  size: number,
  dense: DenseDown,
  { selection, refits, ridge }: FitSettings,
  products: Products,
): Promise<FittedPart> {
  const scores = contributions(problem, dense.weight);
  const best = (count: number): Int32Array => {
    const own = Float64Array.from(candidates, (neuron) => scores[neuron] as number);
    return topNeurons(own, Math.min(count, candidates.length)).map((index) => candidates[index] as number);
  };
  if (selection === "elimination" && refits) {
    return eliminate(problem, best(Math.ceil(size * CANDIDATES)), size, dense.weight, ridge, products);
  }
  const neurons = best(size);
  if (refits) return fitPart(problem, neurons, dense.weight, ridge, products);
  const part = densePart(neurons, dense);
  return { ...part, relativeError: await relativeErrorOf(problem, part, products) };
}
