/** KV memory comes in blocks of this many positions; those that are not filled yet are masked. */
export const KV_BLOCK_TOKENS = 64;

export interface KvShape {
  readonly numLayers: number;
  readonly numKvHeads: number;
  readonly headSize: number;
}
