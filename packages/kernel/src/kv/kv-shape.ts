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

/** Number type that keys and values are stored in. */
export type KvPrecision = "fp16" | "fp32";

/** Returns the size of one token's keys and values in all layers, in bytes. */
export function kvBytesPerToken({ numLayers, numKvHeads, headSize }: KvShape, precision: KvPrecision = "fp32"): number {
  return 2 * numLayers * numKvHeads * headSize * (precision === "fp16" ? 2 : 4);
}
