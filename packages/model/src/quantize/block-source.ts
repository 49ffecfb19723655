// Where the blocks of a weight come from.

import { blockFormat, readBlocks } from "../gguf/block-quants.ts";
import type { TensorRef } from "../weights/tensor-ref.ts";
import { type BlockFormat, type BlockWeights, middleOf } from "./block-weights.ts";
import { fitFourBits } from "./fit-four-bits.ts";

/** Weights `[numOut, numIn]` in blocks, read when they are wanted. */
export interface BlockSource {
  readonly format: BlockFormat;
  readonly numOut: number;
  readonly numIn: number;
  read(): Promise<BlockWeights>;
}

/** The file's own blocks, untouched; `undefined` when its type has none that a product can take. */
export function storedBlocks(ref: TensorRef): BlockSource | undefined {
  const { store, name } = ref;
  const { type } = store.info(name);
  const format = blockFormat(type);
  if (!format) return undefined;
  return { ...sizes(ref), format, read: async () => readBlocks(type, await store.readBytes(name)) };
}

// Larger blocks are faster, smaller ones finer; kernels take powers of two from 16 up.
const EIGHT_BIT_SIZES = [64, 32, 16] as const;

/** Rounded to 8 bits; `undefined` when rows are no whole number of blocks. */
export function eightBitBlocks(ref: TensorRef): BlockSource | undefined {
  const { numOut, numIn } = sizes(ref);
  const blockSize = EIGHT_BIT_SIZES.find((size) => numIn % size === 0);
  if (blockSize === undefined) return undefined;
  const format: BlockFormat = { bits: 8, blockSize, hasOffsets: false };
  return { numOut, numIn, format, read: async () => roundToBlocks(await ref.store.readFloats(ref.name), blockSize) };
}

function sizes({ shape }: TensorRef): { readonly numOut: number; readonly numIn: number } {
  return { numOut: shape[0] ?? 0, numIn: shape[1] ?? 0 };
}

const BLOCK_SIZES = [32, 16] as const;

/** 4 bits, fitted to what `product` takes in; `undefined` when rows are no whole number of blocks. */
export function fittedBlocks(ref: TensorRef, calibration: InputStatistics, product: string): BlockSource | undefined {
  const [numOut = 0, numIn = 0] = ref.shape;
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

/** Channels that the text did not use, and all those of an expert that it did not use, count a little. */
function withFloor(squares: Float32Array): Float32Array {
  const mean = squares.reduce((sum, square) => sum + square, 0) / squares.length;
  return mean > 0 ? squares.map((square) => square + 0.01 * mean) : squares.fill(1);
}

/**
 * What a model's products take in: `layers.3.attention.qkv`, `layers.3.attention.output`, `layers.3.ffn` and
 * `layers.3.ffn.down` of all tokens, `layers.3.ffn.2` and `layers.3.ffn.2.down` of expert 2's.
 */
export interface InputStatistics {
  /** The sum of each channel's squares, `[in]`. */
  inputSquares(product: string): Promise<Float32Array>;
}

const LARGEST = 127;

/** 8 bits, one scale per block: the largest magnitude becomes 127. */
export function roundToBlocks(weights: Float32Array, blockSize: number): BlockWeights {
  const middle = middleOf(8);
  const quants = new Uint8Array(weights.length).fill(middle);
  const scales = new Float32Array(weights.length / blockSize);
  for (let block = 0; block < scales.length; block++) {
    const [start, end] = [block * blockSize, (block + 1) * blockSize];
    let largest = 0;
    for (let i = start; i < end; i++) largest = Math.max(largest, Math.abs(weights[i] as number));
    const scale = largest / LARGEST;
    scales[block] = scale;
    if (scale === 0) continue;
    for (let i = start; i < end; i++) quants[i] = Math.round((weights[i] as number) / scale) + middle;
  }
  return { bits: 8, blockSize, hasOffsets: false, quants, scales, offsets: new Float32Array(0) };
}
