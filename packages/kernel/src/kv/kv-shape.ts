/** Number of positions in a block, the unit in which KV memory is sized. */
export const KV_BLOCK_TOKENS = 64;

/** Shape of a position's keys and of its values: `[numLayers, numKvHeads, headSize]` each. */
export interface KvShape {
  readonly numLayers: number;
  readonly numKvHeads: number;
  readonly headSize: number;
}

/** Rounds a number of tokens up to whole blocks. */
export function wholeBlocks(tokens: number): number {
  return Math.ceil(tokens / KV_BLOCK_TOKENS) * KV_BLOCK_TOKENS;
}

/** Number type of stored keys and values. */
export type KvPrecision = "fp16" | "fp32";

/** Computes the size of one token's keys and values in all layers, in bytes. */
export function kvBytesPerToken({ numLayers, numKvHeads, headSize }: KvShape, precision: KvPrecision = "fp32"): number {
  return 2 * numLayers * numKvHeads * headSize * (precision === "fp16" ? 2 : 4);
}
