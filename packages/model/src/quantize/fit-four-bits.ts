// 4 bits for weights that come in more. Plain rounding spreads the error over all of a row alike; what counts is the
// error of the product on typical inputs, so channels weigh as much as they are large there. Blocks whose values lie
// on 16 even levels, such as those of a 4-bit checkpoint that was converted, come out as they went in.

import { middleOf, type BlockWeights } from "./block-weights.ts";

const LEVELS = 15;
// Of a block's range; what is cut off is clamped, and the rest is finer.
const RANGES = [1, 0.95, 0.9, 0.85, 0.8, 0.74] as const;
const REFINEMENTS = 2;

/**
 * Minimises `Σ importance_i · (weight_i - (scale · quant_i + minimum))²` for each block: over cut ranges, and by least
 * squares for scale and minimum in turn with rounding.
 *
 * @param weights - `[rows, importance.length]`
 * @param importance - of each channel, the mean of its square in what the product takes in; any factor
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

/** Fits one block after the other, in the same memory. A model has ten million blocks, and each is gone through 18 times. */
class BlockFitter {
  scale = 0;
  minimum = 0;
  readonly quants: Uint8Array;
  readonly #trial: Uint8Array;
  /** Of the block at hand: its weights, and how much each counts. */
  readonly #weights: Float64Array;
  readonly #importance: Float64Array;
  /** What a trial leaves: its error, and sums over its levels that least squares take. */
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
      const weight = weights[start + i] as number;
      const h = importance[channel + i] as number;
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
        // Least squares for the trial's levels; they have none when all are one.
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
      const weight = weights[i] as number;
      const h = importance[i] as number;
      const place = weight * perScale + half;
      // Compared before it is cut to a whole number: that is some times as fast as rounding and clamping by `Math`.
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
