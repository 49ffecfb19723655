// A layer's feed-forward network, dense and split into experts, and the selection of neurons from statistics.
// Ties go to the lower index.

import { submatrix, type Matrix } from "../linear-algebra/matrix.ts";
import type { FitProblem } from "./moments.ts";

export interface DenseDown {
  /** `[hiddenSize, intermediateSize]` */
  readonly weight: Matrix;
  readonly bias: Float32Array | undefined;
}

/** Some neurons of a layer's FFN with their own down-projection. */
export interface Part {
  /** Rows of the dense FFN, ascending. */
  readonly neurons: Int32Array;
  /** `[hiddenSize, neurons]` */
  readonly down: Float32Array;
  /** `[hiddenSize]` */
  readonly bias: Float32Array;
  /** Mean square of each neuron on the fitted text; absent in parts that are not fitted. */
  readonly squares?: Float32Array | undefined;
}

/** Parts that replace a layer's dense FFN. */
export interface LayerExperts {
  /** Part that every token uses; `undefined` when the experts share no neurons. */
  readonly shared: Part | undefined;
  readonly experts: readonly Part[];
}

/** Copies the dense weights of `neurons` without fitting them, as the paper does. */
export function densePart(neurons: Int32Array, { weight, bias }: DenseDown): Part {
  const everyRow = Int32Array.from({ length: weight.rows }, (_, row) => row);
  const down = Float32Array.from(submatrix(weight, everyRow, neurons).data);
  return { neurons, down, bias: bias ?? new Float32Array(weight.rows) };
}

// Selects neurons from statistics. All functions return ascending indices; ties go to the lower index.

/** Returns the `size` neurons with the largest scores. */
export function topNeurons(scores: ArrayLike<number>, size: number): Int32Array {
  const order = Array.from({ length: scores.length }, (_, index) => index);
  order.sort((a, b) => scores[b]! - scores[a]! || a - b);
  return Int32Array.from(order.slice(0, size)).sort();
}

/**
 * Scores neurons by what they add to the output: the root mean square of the activation times the norm of the
 * down-projection's column.
 *
 * @param down - dense down-projection, `[hiddenSize, neurons]`
 */
export function contributions(problem: FitProblem, down: Matrix): Float64Array {
  return columnSquares(down).map((norm, neuron) => Math.sqrt(meanSquare(problem, neuron) * norm));
}

/** Returns the mean square of a neuron's activation. */
export function meanSquare({ gram, neuronMeans }: FitProblem, neuron: number): number {
  return gram.data[neuron * gram.columns + neuron]! + neuronMeans[neuron]! ** 2;
}

/** Returns the squared norm of each column. */
export function columnSquares({ rows, columns, data }: Matrix): Float64Array {
  const sums = new Float64Array(columns);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) sums[j]! += data[i * columns + j]! ** 2;
  }
  return sums;
}

/**
 * Selects the neurons with the largest mean magnitudes, the paper's choice (equation 3).
 *
 * @param isOfficial - keeps `size - 1`, like the official code, which counts the neurons above the score at rank `size`
 */
export function paperNeurons(meanMagnitudes: ArrayLike<number>, size: number, isOfficial = false): Int32Array {
  return topNeurons(meanMagnitudes, isOfficial ? size - 1 : size);
}

/**
 * Makes the paper's experts (equation 3) and its permanent expert, which holds the neurons that all domains select.
 * Nothing is fitted. The shared part leaves at least one neuron to each expert.
 *
 * @param magnitudes - summed |activation| of each neuron, by expert
 * @param size - neurons that a token uses
 * @param isOfficial - see `paperNeurons`
 */
export function paperLayer(
  magnitudes: readonly ArrayLike<number>[],
  size: number,
  down: DenseDown,
  isOfficial = false,
): LayerExperts {
  const chosen = magnitudes.map((sums) => paperNeurons(sums, size, isOfficial));
  const [first = new Int32Array(0), ...others] = chosen;
  const sets = others.map((neurons) => new Set(neurons));
  const isCommon = (neuron: number): boolean => sets.length > 0 && sets.every((set) => set.has(neuron));
  const common = first.filter(isCommon).subarray(0, Math.max(0, first.length - 1));
  if (common.length === 0) return { shared: undefined, experts: chosen.map((neurons) => densePart(neurons, down)) };
  const isShared = new Set(common);
  const specific = (neurons: Int32Array): Part => ({
    ...densePart(
      neurons.filter((neuron) => !isShared.has(neuron)),
      down,
    ),
    bias: new Float32Array(down.weight.rows),
  });
  return { shared: densePart(common, down), experts: chosen.map(specific) };
}
