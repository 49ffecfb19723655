// Weights in blocks along their rows, as block-wise products take them.

export type BlockBits = 4 | 8;

/** Storage format of weights in blocks. */
export interface BlockFormat {
  readonly bits: BlockBits;
  /** Number of values per block, a power of two from 16 to 256. */
  readonly blockSize: number;
  /** Whether blocks have an offset beside their scale. */
  readonly hasOffsets: boolean;
}

/** Weights `scale · (quant - middle) + offset`; `middle` is 8 for 4 bits and 128 for 8. */
export interface BlockWeights extends BlockFormat {
  /** One per value, in `[0, 2^bits)`, row-major. */
  readonly quants: Uint8Array<ArrayBuffer>;
  /** One per block. */
  readonly scales: Float32Array<ArrayBuffer>;
  /** One per block; empty without `hasOffsets`. */
  readonly offsets: Float32Array<ArrayBuffer>;
}

/** Blocks of a file as they are: every row is a whole number of them. */
export interface StoredBlocks {
  readonly format: BlockFormat;
  read(): Promise<BlockWeights>;
}

export function middleOf(bits: BlockBits): number {
  return bits === 4 ? 8 : 128;
}
