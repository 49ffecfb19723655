// Weights in blocks: those of ONNX files, weights rounded to 8 bits, and weights fitted to 4 bits.

import { type BlockFormat, type BlockWeights, middleOf } from "./tensor-store.ts";
import type { TensorRef } from "./weights/model-weights.ts";

// The kernel has a scale for each 32 or 16 weights; smaller blocks take more memory.
const BLOCK_SIZES = [32, 16] as const;
const LARGEST_QUANT = 127;

/** Weights `[numOut, numIn]` in blocks, read on demand. */
export interface BlockSource {
  readonly format: BlockFormat;
  readonly numOut: number;
  readonly numIn: number;
  read(): Promise<BlockWeights>;
}

/**
 * Statistics of the inputs of a model's products. Names of products are `layers.3.attention.qkv`,
 * `layers.3.attention.output`, `layers.3.ffn` and `layers.3.ffn.down` for all tokens, and `layers.3.ffn.2` and
 * `layers.3.ffn.2.down` for the tokens of expert 2.
 */
export interface InputStatistics {
  /** Sums the squares of each input channel, `[in]`. */
  inputSquares(product: string): Promise<Float32Array>;
}

/** Returns the blocks of a file whose blocks are no `StoredType`, if the tensor has any. */
export function storedBlocks(ref: TensorRef): BlockSource | undefined {
  const own = ref.store.blocks?.(ref.name);
  return own && { ...sizes(ref), ...own };
}

/** Rounds weights to 8 bits; `undefined` when rows are no whole number of blocks. */
export function eightBitBlocks(ref: TensorRef): BlockSource | undefined {
  const { numOut, numIn } = sizes(ref);
  const blockSize = BLOCK_SIZES.find((size) => numIn % size === 0);
  if (blockSize === undefined) return undefined;
  const format: BlockFormat = { bits: 8, blockSize, hasOffsets: false };
  return { numOut, numIn, format, read: async () => roundToBlocks(await ref.store.readFloats(ref.name), blockSize) };
}

/** Fits weights to 4 bits for the inputs of `product`; `undefined` when rows are no whole number of blocks. */
export function fittedBlocks(ref: TensorRef, calibration: InputStatistics, product: string): BlockSource | undefined {
  const { numOut, numIn } = sizes(ref);
  const blockSize = BLOCK_SIZES.find((size) => numIn % size === 0);
  if (blockSize === undefined) return undefined;
  return {
    numOut,
    numIn,
    format: { bits: 4, blockSize, hasOffsets: true },
    read: async () => {
      const squares = await calibration.inputSquares(product);
      return fitFourBits(await ref.store.readFloats(ref.name), withFloor(squares), blockSize);
    },
  };
}

function sizes({ shape }: TensorRef): { readonly numOut: number; readonly numIn: number } {
  return { numOut: shape[0] ?? 0, numIn: shape[1] ?? 0 };
}

/** Rounds to 8 bits with one scale per block, in which the largest magnitude becomes 127. */
function roundToBlocks(weights: Float32Array, blockSize: number): BlockWeights {
  const middle = middleOf(8);
  const quants = new Uint8Array(weights.length).fill(middle);
  const scales = new Float32Array(weights.length / blockSize);
  for (let block = 0; block < scales.length; block++) {
    const [start, end] = [block * blockSize, (block + 1) * blockSize];
    let largest = 0;
    for (let i = start; i < end; i++) largest = Math.max(largest, Math.abs(weights[i] ?? 0));
    const scale = largest / LARGEST_QUANT;
    scales[block] = scale;
    if (scale === 0) continue;
    for (let i = start; i < end; i++) quants[i] = Math.round((weights[i] ?? 0) / scale) + middle;
  }
  return { bits: 8, blockSize, hasOffsets: false, quants, scales, offsets: new Float32Array(0) };
}

/** Gives a small weight to channels that the calibration text did not use, such as all channels of an unused expert. */
export function withFloor(squares: Float32Array): Float32Array {
  const mean = squares.reduce((sum, square) => sum + square, 0) / squares.length;
  return mean > 0 ? squares.map((square) => square + 0.01 * mean) : squares.fill(1);
}

// Fits 4-bit blocks to weights of higher precision. Plain rounding spreads the error evenly over a row. The error that
// matters is that of the product on typical inputs, so each channel is weighted by its size there. Blocks whose values
// are on 16 even levels, such as those of a converted 4-bit checkpoint, keep their values exactly.

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
