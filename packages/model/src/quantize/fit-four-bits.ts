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

/** Fits one block after the other, in the same memory. */
class BlockFitter {
  scale = 0;
  minimum = 0;
  readonly quants: Uint8Array;
  readonly #trial: Uint8Array;

  constructor(blockSize: number) {
    this.quants = new Uint8Array(blockSize);
    this.#trial = new Uint8Array(blockSize);
  }

  fit(weights: Float32Array, start: number, importance: Float32Array, channel: number): void {
    const size = this.quants.length;
    let [least, most] = [Infinity, -Infinity];
    for (let i = start; i < start + size; i++) {
      const weight = weights[i] as number;
      if (weight < least) least = weight;
      if (weight > most) most = weight;
    }
    [this.scale, this.minimum] = [0, least];
    this.quants.fill(0);
    if (!(most > least)) return;
    let bestError = Infinity;
    for (const range of RANGES) {
      const cut = ((most - least) * (1 - range)) / 2;
      let scale = ((most - least) * range) / LEVELS;
      let minimum = least + cut;
      for (let round = 0; ; round++) {
        const error = this.#round(weights, start, importance, channel, scale, minimum);
        if (error < bestError) {
          bestError = error;
          [this.scale, this.minimum] = [scale, minimum];
          this.quants.set(this.#trial);
        }
        if (round === REFINEMENTS) break;
        const refined = this.#leastSquares(weights, start, importance, channel);
        if (!refined) break;
        [scale, minimum] = refined;
      }
    }
  }

  /** Rounds to the trial's levels; gives the error. */
  #round(
    weights: Float32Array,
    start: number,
    importance: Float32Array,
    channel: number,
    scale: number,
    minimum: number,
  ): number {
    const trial = this.#trial;
    let sum = 0;
    for (let i = 0; i < trial.length; i++) {
      const weight = weights[start + i] as number;
      const level = Math.max(0, Math.min(LEVELS, Math.round((weight - minimum) / scale)));
      trial[i] = level;
      const error = weight - (scale * level + minimum);
      sum += (importance[channel + i] as number) * error * error;
    }
    return sum;
  }

  /** The best scale and minimum for the trial's levels; `undefined` when all levels are one. */
  #leastSquares(
    weights: Float32Array,
    start: number,
    importance: Float32Array,
    channel: number,
  ): readonly [scale: number, minimum: number] | undefined {
    let [all, levels, squares, values, products] = [0, 0, 0, 0, 0];
    for (let i = 0; i < this.#trial.length; i++) {
      const h = importance[channel + i] as number;
      const level = this.#trial[i] as number;
      const weight = weights[start + i] as number;
      all += h;
      levels += h * level;
      squares += h * level * level;
      values += h * weight;
      products += h * weight * level;
    }
    const determinant = all * squares - levels * levels;
    const scale = (all * products - levels * values) / determinant;
    return determinant > 0 && scale > 0 ? [scale, (values - scale * levels) / all] : undefined;
  }
}
