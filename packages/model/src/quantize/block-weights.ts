// Weights in blocks along their rows, as block-wise products take them, whether a file has them so or we made them.

export type BlockBits = 4 | 8;

/** How weights in blocks are kept. */
export interface BlockFormat {
  readonly bits: BlockBits;
  /** Values per block, a power of two from 16 to 256. */
  readonly blockSize: number;
  /** Whether blocks have an offset besides their scale. */
  readonly hasOffsets: boolean;
}

/** `value = scale · (quant - middle) + offset`, `middle` being 8 for 4 bits and 128 for 8. */
export interface BlockWeights extends BlockFormat {
  /** One per value, in `[0, 2^bits)`, row-major. */
  readonly quants: Uint8Array<ArrayBuffer>;
  /** One per block. */
  readonly scales: Float32Array<ArrayBuffer>;
  /** One per block; empty without `hasOffsets`. */
  readonly offsets: Float32Array<ArrayBuffer>;
}

export function middleOf(bits: BlockBits): number {
  return bits === 4 ? 8 : 128;
}

/** Bytes as kernels read them: two 4-bit quants share one, the earlier in its low half. */
export function packQuants({ bits, quants }: Pick<BlockWeights, "bits" | "quants">): Uint8Array<ArrayBuffer> {
  if (bits === 8) return quants;
  const packed = new Uint8Array(quants.length / 2);
  for (let i = 0; i < packed.length; i++) {
    packed[i] = (quants[2 * i] as number) | ((quants[2 * i + 1] as number) << 4);
  }
  return packed;
}

/** Rows of several weights of one format, one below the other. */
export function stackBlocks(parts: readonly BlockWeights[]): BlockWeights {
  const [first] = parts;
  if (!first) throw new TypeError("Expected at least one weight");
  if (parts.length === 1) return first;
  const [quants, scales, offsets] = [
    parts.map((part) => part.quants),
    parts.map((part) => part.scales),
    parts.map((part) => part.offsets),
  ];
  return {
    ...first,
    quants: join(quants, new Uint8Array(lengthOf(quants))),
    scales: join(scales, new Float32Array(lengthOf(scales))),
    offsets: join(offsets, new Float32Array(lengthOf(offsets))),
  };
}

function join<Part extends Uint8Array | Float32Array>(parts: readonly Part[], joined: Part): Part {
  let end = 0;
  for (const part of parts) {
    joined.set(part, end);
    end += part.length;
  }
  return joined;
}

function lengthOf(parts: readonly { readonly length: number }[]): number {
  return parts.reduce((sum, { length }) => sum + length, 0);
}
