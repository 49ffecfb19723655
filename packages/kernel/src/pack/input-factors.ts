// Rounding to 8 bits loses most where some inputs are far larger than others of their group. What comes before a product can make them
// smaller, and the product's weights as much larger, with nothing else changed (SmoothQuant, arXiv 2211.10438, equation 3).

import type { InputStatistics } from "@readme-moe/model";

/** What each input of a product is multiplied by, and its weights are divided by, `[in]`. */
export type InputFactors = () => Promise<Float32Array>;

// Keeps inputs that the tokens never used from growing without end.
const LEAST = 1e-4;

/** Factors of `product`: the fourth root of each input's size beside the others', inverted. */
export function inputFactors(calibration: InputStatistics, product: string): InputFactors {
  return async () => {
    const squares = await calibration.inputSquares(product);
    const mean = squares.reduce((sum, square) => sum + square, 0) / squares.length;
    if (!(mean > 0 && mean < Infinity)) return squares.map(() => 1);
    // Square roots are exact to the last bit everywhere, which powers are not.
    return squares.map((square) => 1 / Math.sqrt(Math.sqrt(Math.sqrt(Math.max(square / mean, LEAST)))));
  };
}
