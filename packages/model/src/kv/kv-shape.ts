/** KV memory comes in blocks of this many positions; those that are not filled yet are masked. */
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

/** Keys and values of one token in all layers, float32. */
export function kvBytesPerToken({ numLayers, numKvHeads, headSize }: KvShape): number {
  return 2 * numLayers * numKvHeads * headSize * Float32Array.BYTES_PER_ELEMENT;
}
