// Rounding to 8 bits loses most when some inputs of a group are far larger than others. The operation in front of a
// product can make them smaller, and the product's weights larger by the same factor (SmoothQuant, arXiv 2211.10438,
// equation 3).

import type { InputStatistics } from "@readme-moe/model";

/** Reads the factors of a product's inputs, `[in]`, which its weights are divided by. */
export type InputFactors = () => Promise<Float32Array>;

// Bounds the factors of inputs that the tokens never used.
const LEAST = 1e-4;

/** Computes the factors of `product`: one over the fourth root of each input's size relative to the mean. */
export function inputFactors(calibration: InputStatistics, product: string): InputFactors {
  return async () => {
    const squares = await calibration.inputSquares(product);
    const mean = squares.reduce((sum, square) => sum + square, 0) / squares.length;
    if (!(mean > 0 && mean < Infinity)) return squares.map(() => 1);
    // Square roots give the same bits on all platforms; powers do not.
    return squares.map((square) => 1 / Math.sqrt(Math.sqrt(Math.sqrt(Math.max(square / mean, LEAST)))));
  };
}
