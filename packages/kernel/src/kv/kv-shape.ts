/** KV memory is sized in blocks of this many positions. */
export const KV_BLOCK_TOKENS = 64;

/** What a model's keys and values are, for each position: `[numLayers, numKvHeads, headSize]` floats each. */
export interface KvShape {
  readonly numLayers: number;
  readonly numKvHeads: number;
  readonly headSize: number;
}

/** The positions of the blocks that hold so many tokens. */
export function wholeBlocks(tokens: number): number {
  return Math.ceil(tokens / KV_BLOCK_TOKENS) * KV_BLOCK_TOKENS;
}

/** Number type that keys and values are stored in. */
export type KvPrecision = "fp16" | "fp32";

/** Size of one token's keys and values in all layers, in bytes. */
export function kvBytesPerToken({ numLayers, numKvHeads, headSize }: KvShape, precision: KvPrecision = "fp32"): number {
  return 2 * numLayers * numKvHeads * headSize * (precision === "fp16" ? 2 : 4);
}
