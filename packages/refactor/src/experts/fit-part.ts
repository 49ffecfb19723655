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
import { meanSquare, type Part, topNeurons } from "./select.ts";
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
  const lambda = ridgeOf(fit.problem.gram, fit.ridge);
  return toPart(fit, await solve(fit, neurons, lambda), lambda);
}

/**
 * Keeps the `size` neurons that the others cannot replace, and fits them. This is the backward elimination of optimal
 * brain surgeon (Hassibi and Stork, 1993) over whole neurons: leaving out neuron j costs |w_j|² / (G⁻¹)_jj when all
 * other neurons are fitted again.
 *
 * @param candidates - neurons to choose from, ascending
 */
export async function eliminate(fit: PartFit, candidates: Int32Array, size: number): Promise<FittedPart> {
  const lambda = ridgeOf(fit.problem.gram, fit.ridge);
  let solved = await solve(fit, candidates, lambda);
  const perRound = Math.ceil((candidates.length - size) / ROUNDS);
  while (solved.neurons.length > size) {
    const next = Math.max(size, solved.neurons.length - perRound);
    ({ solved } = await leaveOut(solved, next, fit.products));
  }
  return toPart(fit, solved, lambda);
}

/**
 * Computes the least error of every size when a layer's dense output is the target: one elimination leaves out neurons
 * from the largest size to the smallest, and each round's costs add up. No neuron left out costs nothing.
 *
 * @param gram - covariances of all neurons; changed in place
 * @param sizes - descending, from the number of all neurons
 * @returns the mean squared distance from the target of each size, with the ridge's share
 */
export async function errorCurve(
  { gram, dense, ridge, products }: Pick<PartFit, "dense" | "ridge" | "products"> & { readonly gram: Matrix },
  sizes: readonly number[],
): Promise<Float64Array> {
  const lambda = ridgeOf(gram, ridge);
  addToDiagonal(gram, lambda);
  // The target is what the dense weights make of the neurons, so that they are the solution with all neurons.
  const neurons = Int32Array.from({ length: gram.rows }, (_, neuron) => neuron);
  const { inverse, scales } = await invertScaled(gram, products);
  let solved: Solved = { neurons, scales, inverse, down: scaledRows(transposed(dense), scales, "over") };
  const errors = new Float64Array(sizes.length);
  for (const [index, size] of sizes.entries()) {
    if (index === 0) continue;
    const next = await leaveOut(solved, size, products);
    solved = next.solved;
    errors[index] = errors[index - 1]! + next.cost;
  }
  return errors;
}

/** A fit of some neurons, with what leaving some of them out needs. Neurons are scaled to variance 1. */
interface Solved {
  readonly neurons: Int32Array;
  /** One over the root of each neuron's variance with the ridge. */
  readonly scales: Float64Array;
  /** Inverse of the scaled Gram matrix with its ridge. */
  readonly inverse: Matrix;
  /** Weights of the scaled neurons, `[neurons, hiddenSize]` */
  readonly down: Matrix;
}

async function solve(fit: PartFit, neurons: Int32Array, lambda: number): Promise<Solved> {
  const { inverse, scales } = await invertScaled(gramOf(fit, neurons, lambda), fit.products);
  const side = scaledRows(rightSide(fit, neurons, lambda), scales, "times");
  return { neurons, scales, inverse, down: await fit.products.rounded.multiply(inverse, side) };
}

function gramOf({ problem }: PartFit, neurons: Int32Array, lambda: number): Matrix {
  const gram = submatrix(problem.gram, neurons, neurons);
  addToDiagonal(gram, lambda);
  return gram;
}

/**
 * Scales a matrix, in place, to a diagonal of ones, inverts it, and rounds the inverse to float32, in which it is
 * updated at twice the speed. Scaling keeps rounding errors small beside neurons with little variance, too.
 */
async function invertScaled(
  a: Matrix,
  products: Products,
): Promise<{ readonly inverse: Matrix; readonly scales: Float64Array }> {
  const { rows: size, data } = a;
  const scales = new Float64Array(size).map((_, i) => 1 / Math.sqrt(data[i * size + i]!));
  for (let i = 0, at = 0; i < size; i++) {
    for (let j = 0; j < size; j++, at++) data[at]! *= scales[i]! * scales[j]!;
  }
  const inverse = await invertPositiveDefinite(a, products);
  return { inverse: { ...inverse, data: new Float32Array(inverse.data) }, scales };
}

function scaledRows({ rows, columns, data }: Matrix, scales: Float64Array, direction: "times" | "over"): Matrix {
  const result = matrix(rows, columns);
  for (let i = 0, at = 0; i < rows; i++) {
    const factor = direction === "times" ? scales[i]! : 1 / scales[i]!;
    for (let j = 0; j < columns; j++, at++) result.data[at] = data[at]! * factor;
  }
  return result;
}

/** Rounds of refinement; each makes the error of float32 hundreds of times smaller. */
const REFINEMENTS = 2;

/** Computes the weights of a solution in float64: its error is solved for with the inverse that is known. */
async function refined(fit: PartFit, { neurons, scales, inverse, down }: Solved, lambda: number): Promise<Matrix> {
  const gram = gramOf(fit, neurons, lambda);
  const side = rightSide(fit, neurons, lambda);
  let weights = scaledRows(down, scales, "times");
  for (let round = 0; round < REFINEMENTS; round++) {
    const left = scaledRows(await fit.products.subtract(side, gram, weights), scales, "times");
    const more = scaledRows(await fit.products.rounded.multiply(inverse, left), scales, "times");
    weights = { ...weights, data: weights.data.map((value, i) => value + more.data[i]!) };
  }
  return weights;
}

/** Leaves out the neurons that cost least, up to `size`, and fits the others again. @returns the cost, too */
async function leaveOut(
  { neurons, scales, inverse, down }: Solved,
  size: number,
  { rounded: products }: Products,
): Promise<{ readonly solved: Solved; readonly cost: number }> {
  const kept = topNeurons(eliminationCosts(inverse, down), size);
  const isKept = new Set(kept);
  const leaving = Int32Array.from(neurons.keys()).filter((index) => !isKept.has(index));
  // With K = I_kl · I_ll⁻¹: the inverse of the kept block is I_kk - K · I_lk, its weights are w_k - K · w_l.
  const corner = await invertPositiveDefinite(submatrix(inverse, leaving, leaving), products);
  const gain = await products.multiply(submatrix(inverse, kept, leaving), corner);
  const lost = rowsOf(down, leaving);
  const image = await products.multiply(corner, lost);
  const solved = {
    neurons: kept.map((index) => neurons[index]!),
    scales: Float64Array.from(kept, (index) => scales[index]!),
    inverse: await products.subtract(submatrix(inverse, kept, kept), gain, submatrix(inverse, leaving, kept)),
    down: await products.subtract(rowsOf(down, kept), gain, lost),
  };
  let cost = 0;
  for (const [at, value] of lost.data.entries()) cost += value * image.data[at]!;
  return { solved, cost };
}

/** Returns the cost of leaving out each neuron. */
function eliminationCosts(inverse: Matrix, down: Matrix): Float64Array {
  return new Float64Array(inverse.rows).map((_, i) => {
    let square = 0;
    for (let j = 0; j < down.columns; j++) square += down.data[i * down.columns + j]! ** 2;
    return square / inverse.data[i * inverse.columns + i]!;
  });
}

function addToDiagonal({ rows, columns, data }: Matrix, value: number): void {
  for (let i = 0; i < rows; i++) data[i * columns + i]! += value;
}

/** Scales the ridge to the Gram matrix. Never 0, so that neurons that are never active do no harm. */
function ridgeOf(gram: Matrix, ridge: number): number {
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

async function toPart(fit: PartFit, solved: Solved, lambda: number): Promise<FittedPart> {
  const { problem, dense } = fit;
  const { neurons } = solved;
  const down = await refined(fit, solved, lambda);
  const bias = Float32Array.from(problem.targetMeans);
  const turned = new Float32Array(down.data.length);
  const { cross } = problem;
  const squares = Float32Array.from(neurons, (neuron) => meanSquare(problem, neuron));
  // E|t|² + Σ (G · W) ∘ W - 2 Σ C ∘ W, where G · W = C + λ (D - W)
  let error = problem.targetVariance;
  neurons.forEach((neuron, row) => {
    const mean = problem.neuronMeans[neuron]!;
    for (let j = 0; j < down.columns; j++) {
      const value = down.data[row * down.columns + j]!;
      turned[j * neurons.length + row] = value;
      bias[j]! -= mean * value;
      const pull = lambda * (dense.data[j * dense.columns + neuron]! - value);
      error += value * (pull - cross.data[neuron * cross.columns + j]!);
    }
  });
  return { neurons, down: turned, bias, squares, relativeError: relative(problem, Math.max(0, error)) };
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
