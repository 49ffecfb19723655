// Reads integers, scales and offsets of GGUF blocks for block-wise products, so that nothing is rounded again. The
// blocks' layouts are in dequantize.ts and k-blocks.ts.

import { middleOf, type BlockFormat, type BlockWeights } from "../quantize/block-weights.ts";
import type { StoredType } from "../tensor-store.ts";
import { f16At, Q4_0_BLOCK_BYTES, Q4_1_BLOCK_BYTES, Q8_0_BLOCK_BYTES } from "./dequantize.ts";
import {
  minimumFactor,
  nibbleOffset,
  nibbleShift,
  Q4_K_BLOCK_BYTES,
  Q6_K_BLOCK_BYTES,
  q6KQuant,
  scaleFactor,
} from "./k-blocks.ts";

interface BlockReader extends BlockFormat {
  /** Size of one block of the file, which may be several blocks of a product. */
  readonly bytes: number;
  readonly values: number;
  /** Reads the file's block at `start` into `out` from value `at` on. */
  read(bytes: Uint8Array, start: number, out: BlockWeights, at: number): void;
}

const READERS: Readonly<Partial<Record<StoredType, BlockReader>>> = {
  Q8_0: { bits: 8, blockSize: 32, hasOffsets: false, bytes: Q8_0_BLOCK_BYTES, values: 32, read: readQ8 },
  Q4_0: { bits: 4, blockSize: 32, hasOffsets: false, bytes: Q4_0_BLOCK_BYTES, values: 32, read: readQ4Symmetric },
  Q4_1: { bits: 4, blockSize: 32, hasOffsets: true, bytes: Q4_1_BLOCK_BYTES, values: 32, read: readQ4Affine },
  Q4_K: { bits: 4, blockSize: 32, hasOffsets: true, bytes: Q4_K_BLOCK_BYTES, values: 256, read: readQ4K },
  Q6_K: { bits: 8, blockSize: 16, hasOffsets: false, bytes: Q6_K_BLOCK_BYTES, values: 256, read: readQ6K },
};

/** Finds the format of a type's blocks; `undefined` for types whose values must be computed. */
export function blockFormat(type: StoredType): BlockFormat | undefined {
  return READERS[type];
}

/** Reads blocks. @param bytes - whole blocks of a type that has a `blockFormat` */
export function readBlocks(type: StoredType, bytes: Uint8Array): BlockWeights {
  const reader = READERS[type];
  if (!reader) throw new TypeError(`Expected a type with blocks to read, got ${type}`);
  const numValues = (bytes.byteLength / reader.bytes) * reader.values;
  const numBlocks = numValues / reader.blockSize;
  const blocks: BlockWeights = {
    bits: reader.bits,
    blockSize: reader.blockSize,
    hasOffsets: reader.hasOffsets,
    quants: new Uint8Array(numValues),
    scales: new Float32Array(numBlocks),
    offsets: new Float32Array(reader.hasOffsets ? numBlocks : 0),
  };
  let at = 0;
  for (let start = 0; start < bytes.byteLength; start += reader.bytes, at += reader.values) {
    reader.read(bytes, start, blocks, at);
  }
  return blocks;
}

/** Reads a block of Q8_0: int8 around 0 becomes a byte around 128. */
function readQ8(bytes: Uint8Array, start: number, { quants, scales }: BlockWeights, at: number): void {
  scales[at / 32] = f16At(bytes, start);
  for (let i = 0; i < 32; i++) quants[at + i] = bytes[start + 2 + i]! ^ 128;
}

function readQ4Symmetric(bytes: Uint8Array, start: number, { quants, scales }: BlockWeights, at: number): void {
  scales[at / 32] = f16At(bytes, start);
  readNibbles(bytes, start + 2, quants, at);
}

function readQ4Affine(bytes: Uint8Array, start: number, out: BlockWeights, at: number): void {
  setAffine(out, at / 32, f16At(bytes, start), f16At(bytes, start + 2));
  readNibbles(bytes, start + 4, out.quants, at);
}

function readQ4K(bytes: Uint8Array, start: number, out: BlockWeights, at: number): void {
  const [scale, minimum] = [f16At(bytes, start), f16At(bytes, start + 2)];
  for (let group = 0; group < 8; group++) {
    const groupScale = scale * scaleFactor(bytes, start + 4, group);
    setAffine(out, at / 32 + group, groupScale, -minimum * minimumFactor(bytes, start + 4, group));
    const from = start + 16 + nibbleOffset(group);
    const shift = nibbleShift(group);
    const to = at + 32 * group;
    for (let i = 0; i < 32; i++) out.quants[to + i] = (bytes[from + i]! >>> shift) & 15;
  }
}

function readQ6K(bytes: Uint8Array, start: number, { quants, scales }: BlockWeights, at: number): void {
  const scale = f16At(bytes, start + 208);
  for (let group = 0; group < 16; group++) {
    const factor = (bytes[start + 192 + group]! << 24) >> 24;
    scales[at / 16 + group] = scale * factor;
    const to = at + 16 * group;
    for (let i = 0; i < 16; i++) quants[to + i] = q6KQuant(bytes, start, group, i) - 32 + middleOf(8);
  }
}

/** Stores `scale · q + minimum` relative to the middle of the quants. */
function setAffine({ bits, scales, offsets }: BlockWeights, block: number, scale: number, minimum: number): void {
  scales[block] = scale;
  offsets[block] = minimum + middleOf(bits) * scale;
}

function readNibbles(bytes: Uint8Array, from: number, quants: Uint8Array, at: number): void {
  for (let i = 0; i < 16; i++) {
    const pair = bytes[from + i]!;
    quants[at + i] = pair & 15;
    quants[at + 16 + i] = pair >>> 4;
  }
}
