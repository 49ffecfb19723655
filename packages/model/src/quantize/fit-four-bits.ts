// Fits 4-bit blocks to weights of higher precision. Plain rounding spreads the error evenly over a row. The error that
// matters is that of the product on typical inputs, so each channel is weighted by its size there. Blocks whose values
// are on 16 even levels, such as those of a converted 4-bit checkpoint, keep their values exactly.

import { middleOf, type BlockWeights } from "./block-weights.ts";

const LEVELS = 15;
// Fractions of a block's range. Values outside are clamped, and the others are rounded more finely.
const RANGES = [1, 0.95, 0.9, 0.85, 0.8, 0.74] as const;
const REFINEMENTS = 2;

/**
 * Minimises `Σ importance_i · (weight_i - (scale · quant_i + minimum))²` for each block: over fractions of its range,
 * and by alternating between least squares for scale and minimum, and rounding.
 *
 * @param weights - `[rows, importance.length]`
 * @param importance - mean of each channel's square in the inputs of the product, up to a common factor
 */
export function fitFourBits(weights: Float32Array, importance: Float32Array, blockSize: number): BlockWeights {
  const numIn = importance.length;
  const numBlocks = weights.length / blockSize;
  const blocks = {
    bits: 4,
    blockSize,
    hasOffsets: true,
    quants: new Uint8Array(weights.length),
    scales: new Float32Array(numBlocks),
    offsets: new Float32Array(numBlocks),
  } as const;
  const fitter = new BlockFitter(blockSize);
  for (let block = 0; block < numBlocks; block++) {
    const start = block * blockSize;
    fitter.fit(weights, start, importance, start % numIn);
    blocks.quants.set(fitter.quants, start);
    blocks.scales[block] = fitter.scale;
    blocks.offsets[block] = fitter.minimum + middleOf(4) * fitter.scale;
  }
  return blocks;
}

/** Fits one block after another in the same memory. A model has ten million blocks, each of which is read 18 times. */
class BlockFitter {
  scale = 0;
  minimum = 0;
  readonly quants: Uint8Array;
  readonly #trial: Uint8Array;
  /** Weights of the current block, and the importance of each. */
  readonly #weights: Float64Array;
  readonly #importance: Float64Array;
  /** Results of a trial: its error, and the sums over its levels for least squares. */
  #error = 0;
  #levels = 0;
  #squares = 0;
  #products = 0;

  constructor(blockSize: number) {
    this.quants = new Uint8Array(blockSize);
    this.#trial = new Uint8Array(blockSize);
    this.#weights = new Float64Array(blockSize);
    this.#importance = new Float64Array(blockSize);
  }

  fit(weights: Float32Array, start: number, importance: Float32Array, channel: number): void {
    let [least, most, all, values] = [Infinity, -Infinity, 0, 0];
    for (let i = 0; i < this.quants.length; i++) {
      const weight = weights[start + i] ?? 0;
      const h = importance[channel + i] ?? 0;
      this.#weights[i] = weight;
      this.#importance[i] = h;
      if (weight < least) least = weight;
      if (weight > most) most = weight;
      all += h;
      values += h * weight;
    }
    [this.scale, this.minimum] = [0, least];
    this.quants.fill(0);
    if (!(most > least)) return;
    let bestError = Infinity;
    for (const range of RANGES) {
      let scale = ((most - least) * range) / LEVELS;
      let minimum = least + ((most - least) * (1 - range)) / 2;
      for (let round = 0; ; round++) {
        this.#round(scale, minimum);
        if (this.#error < bestError) {
          bestError = this.#error;
          this.scale = scale;
          this.minimum = minimum;
          this.quants.set(this.#trial);
        }
        if (round === REFINEMENTS) break;
        // Least squares for the trial's levels have no solution when all levels are the same.
        const determinant = all * this.#squares - this.#levels * this.#levels;
        const refined = (all * this.#products - this.#levels * values) / determinant;
        if (!(determinant > 0 && refined > 0)) break;
        scale = refined;
        minimum = (values - refined * this.#levels) / all;
      }
    }
  }

  /** Rounds to the trial's levels. */
  #round(scale: number, minimum: number): void {
    const [weights, importance, trial] = [this.#weights, this.#importance, this.#trial];
    const perScale = 1 / scale;
    const half = 0.5 - minimum * perScale;
    let [error, levels, squares, products] = [0, 0, 0, 0];
    for (let i = 0; i < trial.length; i++) {
      const weight = weights[i] ?? 0;
      const h = importance[i] ?? 0;
      const place = weight * perScale + half;
      // Comparing before truncating is several times as fast as rounding and clamping with `Math`.
      const level = place < 1 ? 0 : place >= LEVELS ? LEVELS : place | 0;
      trial[i] = level;
      const missed = weight - (scale * level + minimum);
      const weighted = h * level;
      error += h * missed * missed;
      levels += weighted;
      squares += weighted * level;
      products += weighted * weight;
    }
    this.#error = error;
    this.#levels = levels;
    this.#squares = squares;
    this.#products = products;
  }
}
