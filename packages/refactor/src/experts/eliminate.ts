// Which neurons to keep when what is kept is fitted anew: those that others cannot stand in for. Backward elimination
// as in optimal brain surgeon (Hassibi and Stork, 1993), over whole neurons: leaving out neuron j costs |w_j|² / (G⁻¹)_jj when all others
// are fitted again.

import { invertPositiveDefinite } from "../linear-algebra/invert.ts";
import { rowsOf, submatrix, type Matrix } from "../linear-algebra/matrix.ts";
import type { Products } from "../linear-algebra/products.ts";
import { ridgeOf, rightSide, toPart, type FittedPart } from "./fit-part.ts";
import type { FitProblem } from "./moments.ts";
import { topNeurons } from "./select.ts";

/** Neurons go in so many rounds, each of which reckons with those before it. */
const ROUNDS = 6;

/**
 * The `size` neurons that are left, fitted. @param ridge - see `fitPart`
 * @param candidates - neurons to choose from, rising
 */
export async function eliminate(
  problem: FitProblem,
  candidates: Int32Array,
  size: number,
  dense: Matrix,
  ridge: number,
  products: Products,
): Promise<FittedPart> {
  const lambda = ridgeOf(problem, ridge);
  const gram = submatrix(problem.gram, candidates, candidates);
  for (let i = 0; i < gram.rows; i++) gram.data[i * gram.rows + i] = (gram.data[i * gram.rows + i] as number) + lambda;
  let neurons = candidates;
  let inverse = await invertPositiveDefinite(gram, products);
  let down = await products.multiply(inverse, rightSide(problem, neurons, dense, lambda));
  const perRound = Math.ceil((candidates.length - size) / ROUNDS);
  while (neurons.length > size) {
    const numKept = Math.max(size, neurons.length - perRound);
    const kept = topNeurons(costs(inverse, down), numKept);
    const isKept = new Set(kept);
    const leaving = Int32Array.from(neurons.keys()).filter((index) => !isKept.has(index));
    // With K = I_kl · I_ll⁻¹: the inverse of what is kept is I_kk - K · I_lk, its weights are w_k - K · w_l.
    const corner = await invertPositiveDefinite(submatrix(inverse, leaving, leaving), products);
    const gain = await products.multiply(submatrix(inverse, kept, leaving), corner);
    const rest = submatrix(inverse, kept, kept);
    inverse = await products.subtract(rest, gain, submatrix(inverse, leaving, kept));
    down = await products.subtract(rowsOf(down, kept), gain, rowsOf(down, leaving));
    neurons = Int32Array.from(kept, (index) => neurons[index] as number);
  }
  return toPart(problem, neurons, down, products);
}

/** What leaving out each neuron costs. */
function costs(inverse: Matrix, down: Matrix): Float64Array {
  const result = new Float64Array(inverse.rows);
  for (let i = 0; i < inverse.rows; i++) {
    let square = 0;
    for (let j = 0; j < down.columns; j++) square += (down.data[i * down.columns + j] as number) ** 2;
    result[i] = square / (inverse.data[i * inverse.columns + i] as number);
  }
  return result;
}
