// Which neurons a part is made of: pure functions over statistics. All return indices that rise; of equals, the lower.

import type { Matrix } from "../linear-algebra/matrix.ts";
import type { FitProblem } from "./moments.ts";

/** The `size` neurons with the largest scores. */
export function topNeurons(scores: ArrayLike<number>, size: number): Int32Array {
  const order = Array.from({ length: scores.length }, (_, index) => index);
  order.sort((a, b) => (scores[b] as number) - (scores[a] as number) || a - b);
  return Int32Array.from(order.slice(0, size)).sort();
}

/**
 * The paper's choice (equation 3): the largest mean magnitudes.
 *
 * The official code counts the neurons above the score at rank `size`, and so keeps one less.
 *
 * @param isOfficial - keep one less, as it does
 */
export function paperNeurons(meanMagnitudes: ArrayLike<number>, size: number, isOfficial = false): Int32Array {
  return topNeurons(meanMagnitudes, isOfficial ? size - 1 : size);
}

/**
 * Neurons by what they add to the output: root mean square of the activation times norm of the down-projection's column.
 *
 * @param down - the dense down-projection, `[hiddenSize, neurons]`
 */
export function contributions({ gram, neuronMeans }: FitProblem, down: Matrix): Float64Array {
  const norms = columnSquares(down);
  return Float64Array.from(norms, (norm, j) => {
    const square = (gram.data[j * gram.columns + j] as number) + (neuronMeans[j] as number) ** 2;
    return Math.sqrt(square * norm);
  });
}

/** The square of each column's norm. */
export function columnSquares({ rows, columns, data }: Matrix): Float64Array {
  const sums = new Float64Array(columns);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) sums[j] = (sums[j] as number) + (data[i * columns + j] as number) ** 2;
  }
  return sums;
}
