// Rounding to 8 bits loses most when some inputs are far larger than others of their group. The operation before a
// product can make them smaller, and the product's weights as much larger, with no other change (SmoothQuant, arXiv
// 2211.10438, equation 3).

import type { InputStatistics } from "@readme-moe/model";

/** Factors of the inputs of a product, `[in]`, by which its weights are divided. */
export type InputFactors = () => Promise<Float32Array>;

// Limits the factors of inputs that the tokens never used.
const LEAST = 1e-4;

/** Computes the factors of `product`: the inverse fourth root of each input's size relative to the others. */
export function inputFactors(calibration: InputStatistics, product: string): InputFactors {
  return async () => {
    const squares = await calibration.inputSquares(product);
    const mean = squares.reduce((sum, square) => sum + square, 0) / squares.length;
    if (!(mean > 0 && mean < Infinity)) return squares.map(() => 1);
    // Square roots are exact to the last bit on every platform, powers are not.
    return squares.map((square) => 1 / Math.sqrt(Math.sqrt(Math.sqrt(Math.max(square / mean, LEAST)))));
  };
}
