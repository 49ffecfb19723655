// The down-projection of some neurons in closed form: least squares with a ridge towards the dense weights, so that with
// all neurons kept, and nothing to make up for, the dense weights come out.

import { invertPositiveDefinite } from "../linear-algebra/invert.ts";
import { matrix, rowsOf, submatrix, type Matrix } from "../linear-algebra/matrix.ts";
import type { DenseDown } from "../layers/layer-source.ts";
import type { Products } from "../linear-algebra/products.ts";
import type { Part } from "./layer-experts.ts";
import type { FitProblem } from "./moments.ts";

export interface FittedPart extends Part {
  /** Mean squared distance from the target on the text that it was fitted to, over the target's variance. */
  readonly relativeError: number;
}

/** @param ridge - relative to the mean of the Gram matrix's diagonal */
export async function fitPart(
  problem: FitProblem,
  neurons: Int32Array,
  dense: Matrix,
  ridge: number,
  products: Products,
): Promise<FittedPart> {
  const lambda = ridgeOf(problem, ridge);
  const gram = submatrix(problem.gram, neurons, neurons);
  for (let i = 0; i < gram.rows; i++) gram.data[i * gram.columns + i] = diagonal(gram, i) + lambda;
  const down = await products.multiply(
    await invertPositiveDefinite(gram, products),
    rightSide(problem, neurons, dense, lambda),
  );
  return toPart(problem, neurons, down, products);
}

/** The dense weights of `neurons`, as they are: what the paper does. */
export function densePart(neurons: Int32Array, { weight, bias }: DenseDown): Part {
  const everyRow = Int32Array.from({ length: weight.rows }, (_, row) => row);
  const down = Float32Array.from(submatrix(weight, everyRow, neurons).data);
  return { neurons, down, bias: bias ?? new Float32Array(weight.rows) };
}

/** In the units of the Gram matrix; never 0, so that neurons that are never active do no harm. */
export function ridgeOf({ gram }: FitProblem, ridge: number): number {
  let trace = 0;
  for (let i = 0; i < gram.rows; i++) trace += diagonal(gram, i);
  return Math.max((ridge * trace) / gram.rows, Number.MIN_VALUE * 2 ** 60);
}

function diagonal({ data, columns }: Matrix, i: number): number {
  return data[i * columns + i] as number;
}

/** `cross + lambda · denseᵀ`, rows of `neurons`. */
export function rightSide({ cross }: FitProblem, neurons: Int32Array, dense: Matrix, lambda: number): Matrix {
  const side = rowsOf(cross, neurons);
  neurons.forEach((neuron, row) => {
    for (let j = 0; j < side.columns; j++) {
      const at = row * side.columns + j;
      side.data[at] = (side.data[at] as number) + lambda * (dense.data[j * dense.columns + neuron] as number);
    }
  });
  return side;
}

/** @param down - `[neurons, hiddenSize]` */
export async function toPart(
  problem: FitProblem,
  neurons: Int32Array,
  down: Matrix,
  products: Products,
): Promise<FittedPart> {
  const bias = Float32Array.from(problem.targetMeans);
  const turned = new Float32Array(down.data.length);
  neurons.forEach((neuron, row) => {
    const mean = problem.neuronMeans[neuron] as number;
    for (let j = 0; j < down.columns; j++) {
      const value = down.data[row * down.columns + j] as number;
      turned[j * neurons.length + row] = value;
      bias[j] = (bias[j] as number) - mean * value;
    }
  });
  return {
    neurons,
    down: turned,
    bias,
    relativeError: relative(problem, await errorOf(problem, neurons, down, products)),
  };
}

/** `E|t - downᵀ h|²` about the means. @param down - `[neurons, hiddenSize]` */
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
    for (let j = 0; j < down.columns; j++) {
      const weight = down.data[row * down.columns + j] as number;
      const own = image.data[row * down.columns + j] as number;
      sum += weight * (own - 2 * (cross.data[neuron * cross.columns + j] as number));
    }
  });
  return Math.max(0, sum);
}

/** How far a part is from the target on the text of `problem`, over the variance of the layer's whole target. */
export async function relativeErrorOf(problem: FitProblem, part: Part, products: Products): Promise<number> {
  return relative(problem, await errorOf(problem, part.neurons, downRows(part), products));
}

function relative({ wholeVariance }: FitProblem, error: number): number {
  return wholeVariance > 0 ? error / wholeVariance : 0;
}

/** The problem that is left to other neurons when `part` is there already. */
export async function remainder(problem: FitProblem, part: Part, products: Products): Promise<FitProblem> {
  const { gram, cross, neuronMeans } = problem;
  const { neurons, bias } = part;
  const down = downRows(part);
  const everything = Int32Array.from({ length: gram.rows }, (_, neuron) => neuron);
  const targetMeans = problem.targetMeans.map((mean, j) => {
    let left = mean - (bias[j] as number);
    neurons.forEach((neuron, i) => {
      left -= (down.data[i * down.columns + j] as number) * (neuronMeans[neuron] as number);
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

/** A part's down-projection as `[neurons, hiddenSize]`. */
function downRows({ neurons, down, bias }: Part): Matrix {
  const hiddenSize = bias.length;
  const rows = matrix(neurons.length, hiddenSize);
  for (let i = 0; i < rows.rows; i++) {
    for (let j = 0; j < hiddenSize; j++) rows.data[i * hiddenSize + j] = down[j * neurons.length + i] as number;
  }
  return rows;
}
