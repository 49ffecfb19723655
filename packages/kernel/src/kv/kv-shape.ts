/** Number of positions in a block; the size of KV memory is a number of blocks. */
export const KV_BLOCK_TOKENS = 64;

/** Sizes of a model's keys and values: `[numLayers, numKvHeads, headSize]` floats of each, for each position. */
export interface KvShape {
  readonly numLayers: number;
  readonly numKvHeads: number;
  readonly headSize: number;
}

/** Returns the number of positions in the blocks that hold a number of tokens. */
export function wholeBlocks(tokens: number): number {
  return Math.ceil(tokens / KV_BLOCK_TOKENS) * KV_BLOCK_TOKENS;
}

/** Number type that keys and values are stored in; "int8" has a float32 scale for each key and each value of a head. */
export type KvPrecision = "fp32" | "fp16" | "int8";

/** Number types in the order of `KvType` in `native/loops.h`. */
export const KV_PRECISIONS: readonly KvPrecision[] = ["fp32", "fp16", "int8"];

/** Returns the size of one token's keys and values in all layers, in bytes. */
export function kvBytesPerToken({ numLayers, numKvHeads, headSize }: KvShape, precision: KvPrecision = "fp32"): number {
  const headBytes = { fp32: 4 * headSize, fp16: 2 * headSize, int8: headSize + 4 }[precision];
  return 2 * numLayers * numKvHeads * headBytes;
}
