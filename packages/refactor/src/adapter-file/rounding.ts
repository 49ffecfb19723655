// Rounding that counts what comes of it. Columns of a product's weights are rounded one after the other, and the next ones
// take over what can be made up for of the error so far: LDLQ of QuIP (arXiv 2307.13304, section 3), which is GPTQ's rule.

import { rowStart } from "../experts/moments.ts";
import { matrix, type Matrix } from "../linear-algebra/matrix.ts";
import { upperFactor } from "../linear-algebra/upper-factor.ts";
import { quantize, quantized } from "./coded-values.ts";

// Of the mean of squares, on all of them: what few tokens say of two neurons is not all that comes of them.
const RIDGE = 0.1;
// What is left for later columns is read and written once for so many errors, which is most of the time.
const COLUMNS_TOGETHER = 4;

/**
 * How errors in one column of weights are made up for in later ones, `U` of `upperFactor`.
 *
 * @param gram - of all the layer's neurons, as in `Moments`
 * @param neurons - those that the columns belong to, in rising order
 * @param scales - of these columns: weights are rounded times them
 * @returns `undefined` where nothing came to the neurons
 */
export function errorFactor(
  gram: Float32Array,
  numNeurons: number,
  neurons: Int32Array,
  scales: Float32Array,
): Matrix | undefined {
  const together = (a: number, b: number): number => gram[rowStart(a, numNeurons) + b - a] as number;
  const ridge = (RIDGE * neurons.reduce((sum, neuron) => sum + together(neuron, neuron), 0)) / neurons.length;
  if (!(ridge > 0) || !Number.isFinite(ridge)) return undefined;
  const own = matrix(neurons.length, neurons.length);
  // Of a symmetric matrix, the factor takes what is on the diagonal and right of it.
  neurons.forEach((a, i) => {
    for (let j = i; j < neurons.length; j++) {
      const sum = together(a, neurons[j] as number) + (i === j ? ridge : 0);
      own.data[i * neurons.length + j] = sum / ((scales[i] as number) * (scales[j] as number));
    }
  });
  return upperFactor(own);
}

/**
 * Multiples of `step` that are near `values` `[rows, columns]`, so that errors do little together.
 *
 * @param factor - see `errorFactor`; without one, each value is rounded for itself
 */
export function roundTogether(values: Float32Array, step: number, factor: Matrix | undefined): Int16Array {
  if (!factor) return quantize(values, step);
  const { columns, data: u } = factor;
  const codes = new Int16Array(values.length);
  const left = new Float64Array(columns);
  const errors = new Float64Array(COLUMNS_TOGETHER);
  for (let from = 0; from < values.length; from += columns) {
    left.set(values.subarray(from, from + columns));
    for (let start = 0; start < columns; start += COLUMNS_TOGETHER) {
      const end = Math.min(columns, start + COLUMNS_TOGETHER);
      for (let column = start; column < end; column++) {
        const code = quantized(left[column] as number, step);
        codes[from + column] = code;
        // The error of the value itself, not of what was rounded: that one includes what it made up for.
        const error = (values[from + column] as number) - code * step;
        errors[column - start] = error;
        for (let to = column + 1; to < end; to++) {
          left[to] = (left[to] as number) + error * (u[column * columns + to] as number);
        }
      }
      const [first, second, third, fourth] = errors as unknown as [number, number, number, number];
      for (let to = end, at = start * columns + end; to < columns; to++, at++) {
        left[to] =
          (left[to] as number) +
          first * (u[at] as number) +
          second * (u[at + columns] as number) +
          third * (u[at + 2 * columns] as number) +
          fourth * (u[at + 3 * columns] as number);
      }
    }
  }
  return codes;
}
