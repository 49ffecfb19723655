// Weights in blocks: those of ONNX files, weights rounded to 8 bits, and weights fitted to 4 bits.

import type { TensorRef } from "../weights/tensor-ref.ts";
import { type BlockFormat, type BlockWeights, middleOf } from "./block-weights.ts";
import { fitFourBits } from "./fit-four-bits.ts";

// Larger blocks are faster, smaller ones more accurate. Kernels take powers of two from 16 up.
const EIGHT_BIT_SIZES = [64, 32, 16] as const;
const FOUR_BIT_SIZES = [32, 16] as const;
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
  const blockSize = EIGHT_BIT_SIZES.find((size) => numIn % size === 0);
  if (blockSize === undefined) return undefined;
  const format: BlockFormat = { bits: 8, blockSize, hasOffsets: false };
  return { numOut, numIn, format, read: async () => roundToBlocks(await ref.store.readFloats(ref.name), blockSize) };
}

/** Fits weights to 4 bits for the inputs of `product`; `undefined` when rows are no whole number of blocks. */
export function fittedBlocks(ref: TensorRef, calibration: InputStatistics, product: string): BlockSource | undefined {
  const { numOut, numIn } = sizes(ref);
  const blockSize = FOUR_BIT_SIZES.find((size) => numIn % size === 0);
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
function withFloor(squares: Float32Array): Float32Array {
  const mean = squares.reduce((sum, square) => sum + square, 0) / squares.length;
  return mean > 0 ? squares.map((square) => square + 0.01 * mean) : squares.fill(1);
}
