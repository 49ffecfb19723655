// Fits down-projections of chosen neurons in closed form: least squares with a ridge towards the dense weights. With
// all neurons kept and no error to make up for, the fit returns the dense weights.

import {
  invertPositiveDefinite,
  matrix,
  rowsOf,
  submatrix,
  transposed,
  type Matrix,
  type Products,
} from "../linear-algebra/matrix.ts";
import { type Part, topNeurons } from "./select.ts";
import type { FitProblem } from "./moments.ts";

/** Rounds of elimination; each round accounts for the neurons removed before it. */
const ROUNDS = 6;

export interface FittedPart extends Part {
  /** Mean squared distance from the target on the fitted text, relative to the target's variance. */
  readonly relativeError: number;
}

/** Inputs of a fit besides its neurons. */
export interface PartFit {
  readonly problem: FitProblem;
  /** Dense down-projection, `[hiddenSize, neurons]`. */
  readonly dense: Matrix;
  /** Ridge relative to the mean of the Gram matrix's diagonal. */
  readonly ridge: number;
  readonly products: Products;
}

/** Fits the down-projection of `neurons`. */
export async function fitPart(fit: PartFit, neurons: Int32Array): Promise<FittedPart> {
  const lambda = ridgeOf(fit);
  const inverse = await invertPositiveDefinite(ridgedGram(fit, neurons, lambda), fit.products);
  return toPart(fit, neurons, await fit.products.multiply(inverse, rightSide(fit, neurons, lambda)));
}

/**
 * Keeps the `size` neurons that the others cannot replace, and fits them. This is the backward elimination of optimal
 * brain surgeon (Hassibi and Stork, 1993) over whole neurons: leaving out neuron j costs |w_j|² / (G⁻¹)_jj when all
 * other neurons are fitted again.
 *
 * @param candidates - neurons to choose from, ascending
 */
export async function eliminate(fit: PartFit, candidates: Int32Array, size: number): Promise<FittedPart> {
  const { products } = fit;
  const lambda = ridgeOf(fit);
  let neurons = candidates;
  let inverse = await invertPositiveDefinite(ridgedGram(fit, neurons, lambda), products);
  let down = await products.multiply(inverse, rightSide(fit, neurons, lambda));
  const perRound = Math.ceil((candidates.length - size) / ROUNDS);
  while (neurons.length > size) {
    const kept = topNeurons(eliminationCosts(inverse, down), Math.max(size, neurons.length - perRound));
    const isKept = new Set(kept);
    const leaving = Int32Array.from(neurons.keys()).filter((index) => !isKept.has(index));
    // With K = I_kl · I_ll⁻¹: the inverse of the kept block is I_kk - K · I_lk, its weights are w_k - K · w_l.
    const corner = await invertPositiveDefinite(submatrix(inverse, leaving, leaving), products);
    const gain = await products.multiply(submatrix(inverse, kept, leaving), corner);
    const rest = submatrix(inverse, kept, kept);
    inverse = await products.subtract(rest, gain, submatrix(inverse, leaving, kept));
    down = await products.subtract(rowsOf(down, kept), gain, rowsOf(down, leaving));
    const before = neurons;
    neurons = kept.map((index) => before[index]!);
  }
  return toPart(fit, neurons, down);
}

/** Returns the cost of leaving out each neuron. */
function eliminationCosts(inverse: Matrix, down: Matrix): Float64Array {
  return new Float64Array(inverse.rows).map((_, i) => {
    let square = 0;
    for (let j = 0; j < down.columns; j++) square += down.data[i * down.columns + j]! ** 2;
    return square / inverse.data[i * inverse.columns + i]!;
  });
}

function ridgedGram({ problem }: PartFit, neurons: Int32Array, lambda: number): Matrix {
  const gram = submatrix(problem.gram, neurons, neurons);
  for (let i = 0; i < gram.rows; i++) gram.data[i * gram.columns + i]! += lambda;
  return gram;
}

/** Scales the ridge to the Gram matrix. Never 0, so that neurons that are never active do no harm. */
function ridgeOf({ problem: { gram }, ridge }: PartFit): number {
  let trace = 0;
  for (let i = 0; i < gram.rows; i++) trace += gram.data[i * gram.columns + i]!;
  return Math.max((ridge * trace) / gram.rows, Number.MIN_VALUE * 2 ** 60);
}

/** `cross + lambda · denseᵀ`, rows of `neurons`. */
function rightSide({ problem, dense }: PartFit, neurons: Int32Array, lambda: number): Matrix {
  const side = rowsOf(problem.cross, neurons);
  neurons.forEach((neuron, row) => {
    const start = row * side.columns;
    for (let j = 0; j < side.columns; j++) side.data[start + j]! += lambda * dense.data[j * dense.columns + neuron]!;
  });
  return side;
}

/** @param down - `[neurons, hiddenSize]` */
async function toPart({ problem, products }: PartFit, neurons: Int32Array, down: Matrix): Promise<FittedPart> {
  const bias = Float32Array.from(problem.targetMeans);
  const turned = new Float32Array(down.data.length);
  neurons.forEach((neuron, row) => {
    const mean = problem.neuronMeans[neuron]!;
    for (let j = 0; j < down.columns; j++) {
      const value = down.data[row * down.columns + j]!;
      turned[j * neurons.length + row] = value;
      bias[j]! -= mean * value;
    }
  });
  const error = await errorOf(problem, neurons, down, products);
  return { neurons, down: turned, bias, relativeError: relative(problem, error) };
}

/** Computes `E|t - downᵀ h|²` about the means. @param down - `[neurons, hiddenSize]` */
async function errorOf(
  { gram, cross, targetVariance }: FitProblem,
  neurons: Int32Array,
  down: Matrix,
  products: Products,
): Promise<number> {
  // E|t|² + Σ (G_SS · W) ∘ W - 2 Σ C_S ∘ W
  const image = await products.multiply(submatrix(gram, neurons, neurons), down);
  let sum = targetVariance;
  neurons.forEach((neuron, row) => {
    const [start, crossStart] = [row * down.columns, neuron * cross.columns];
    for (let j = 0; j < down.columns; j++) {
      sum += down.data[start + j]! * (image.data[start + j]! - 2 * cross.data[crossStart + j]!);
    }
  });
  return Math.max(0, sum);
}

/** Computes a part's distance from the target on the problem's text, relative to the variance of the layer's target. */
export async function relativeErrorOf(problem: FitProblem, part: Part, products: Products): Promise<number> {
  return relative(problem, await errorOf(problem, part.neurons, downRows(part), products));
}

function relative({ wholeVariance }: FitProblem, error: number): number {
  return wholeVariance > 0 ? error / wholeVariance : 0;
}

/** Returns the problem that remains for other neurons beside `part`. */
export async function remainder(problem: FitProblem, part: Part, products: Products): Promise<FitProblem> {
  const { gram, cross, neuronMeans } = problem;
  const { neurons, bias } = part;
  const down = downRows(part);
  const everything = Int32Array.from({ length: gram.rows }, (_, neuron) => neuron);
  const targetMeans = problem.targetMeans.map((mean, j) => {
    let left = mean - bias[j]!;
    neurons.forEach((neuron, i) => {
      left -= down.data[i * down.columns + j]! * neuronMeans[neuron]!;
    });
    return left;
  });
  return {
    ...problem,
    cross: await products.subtract(cross, submatrix(gram, everything, neurons), down),
    targetMeans,
    targetVariance: await errorOf(problem, neurons, down, products),
  };
}

/** Turns a part's down-projection to `[neurons, hiddenSize]`. */
function downRows({ neurons, down, bias }: Part): Matrix {
  return transposed(matrix(bias.length, neurons.length, down));
}
