// Where the blocks of a weight come from.

import { blockFormat, readBlocks } from "../gguf/block-quants.ts";
import type { TensorRef } from "../weights/tensor-ref.ts";
import type { BlockFormat, BlockWeights } from "./block-weights.ts";
import { roundToBlocks } from "./round-to-blocks.ts";

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
