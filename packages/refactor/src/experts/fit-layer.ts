// Makes a layer's experts out of its statistics, and the experts that results are compared with.

import { seededRandom } from "@readme-moe/core";
import type { Products } from "../linear-algebra/matrix.ts";
import { shuffled } from "../random.ts";
import { eliminate, fitPart, relativeErrorOf, remainder, type FittedPart } from "./fit-part.ts";
import { densePart, type DenseDown, type Part, contributions, topNeurons } from "./select.ts";
import { fitProblem, type FitProblem, type Moments } from "./moments.ts";

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

export interface LayerFit {
  readonly dense: DenseDown;
  readonly settings: FitSettings;
  readonly products: Products;
}

/** Moments that an expert is fitted to: of its own text, and of the text of all experts. */
export interface ExpertMoments {
  readonly own: Moments;
  readonly all: Moments;
}

/** Fits the part that all experts share; none if they share no neurons. */
export async function fitShared(all: Moments, fit: LayerFit): Promise<Part | undefined> {
  const { dense, settings } = fit;
  if (settings.sharedSize === 0) return undefined;
  return chooseAndFit(fitProblem(all, all, 1), everyNeuron(dense), settings.sharedSize, fit);
}

/** Fits one expert beside the shared part. */
export async function fitExpert(
  { own, all }: ExpertMoments,
  shared: Part | undefined,
  fit: LayerFit,
): Promise<FittedPart> {
  const { dense, settings, products } = fit;
  const { usedSize, sharedSize, ownShare } = settings;
  const isShared = new Set(shared?.neurons);
  const candidates = everyNeuron(dense).filter((neuron) => !isShared.has(neuron));
  const problem = fitProblem(own, all, ownShare);
  const rest = shared ? await remainder(problem, shared, products) : problem;
  return chooseAndFit(rest, candidates, usedSize - sharedSize, fit);
}

/** Fits randomly drawn neurons. @param expert - which of the experts that `seed` draws */
export async function fitRandomExpert(
  { own, all }: ExpertMoments,
  { dense, settings, products }: LayerFit,
  { seed, expert }: { readonly seed: number; readonly expert: number },
): Promise<Part> {
  const { usedSize, ownShare, ridge } = settings;
  const random = seededRandom(seed);
  for (let earlier = 0; earlier < expert; earlier++) random();
  const drawn = shuffled(Array.from(everyNeuron(dense)), random() * 2 ** 32).slice(0, usedSize);
  const problem = fitProblem(own, all, ownShare);
  return fitPart({ problem, dense: dense.weight, ridge, products }, Int32Array.from(drawn).sort());
}

/** Computes how far an expert whose weights are the dense ones is from the target on its own text. */
export async function errorOfExpert(
  own: Moments,
  { shared, part }: { readonly shared: Part | undefined; readonly part: Part },
  products: Products,
): Promise<number> {
  const problem = fitProblem(own, own, 1);
  return relativeErrorOf(shared ? await remainder(problem, shared, products) : problem, part, products);
}

function everyNeuron({ weight }: DenseDown): Int32Array {
  return Int32Array.from({ length: weight.columns }, (_, neuron) => neuron);
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
