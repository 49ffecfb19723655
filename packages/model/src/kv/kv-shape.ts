/** KV memory comes in blocks of this many positions; those that are not filled yet are masked. */
export const KV_BLOCK_TOKENS = 64;

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
