// Quantised blocks of 32 values along a row: a scale, perhaps a minimum, perhaps 32 fifth bits, then the quants. Scale
// and minimum are F16. Nibbles hold value i in the low half of byte i and value i + 16 in its high half; bit i of the
// fifth bits, a uint32, belongs to value i. See k-blocks.ts for blocks of 256.
// Source: block_q* in ggml-common.h and dequantize_row_q* in ggml-quants.c of llama.cpp.

import { F16_VALUES } from "../files/floats.ts";

export const BLOCK_VALUES = 32;
export const Q8_0_BLOCK_BYTES = 34;
export const Q4_0_BLOCK_BYTES = 18;
export const Q4_1_BLOCK_BYTES = 20;
export const Q5_0_BLOCK_BYTES = 22;
export const Q5_1_BLOCK_BYTES = 24;

const NIBBLE_BYTES = BLOCK_VALUES / 2;

/** Converts blocks of Q8_0 (scale, 32 int8): value = scale * q. */
export function dequantizeQ8(bytes: Uint8Array): Float32Array {
  const signed = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const values = new Float32Array((bytes.byteLength / Q8_0_BLOCK_BYTES) * BLOCK_VALUES);
  let at = 0;
  for (let start = 0; start < bytes.byteLength; start += Q8_0_BLOCK_BYTES) {
    const scale = f16At(bytes, start);
    const end = start + Q8_0_BLOCK_BYTES;
    for (let i = start + 2; i < end; i++) values[at++] = scale * (signed[i] ?? 0);
  }
  return values;
}

interface NibbleBlock {
  readonly blockBytes: number;
  /** Quant that stands for the minimum, or for 0 without one. */
  readonly zero: number;
  readonly hasMinimum: boolean;
  readonly hasFifthBits: boolean;
}

/** Converts whole blocks to their values. */
type Dequantize = (bytes: Uint8Array) => Float32Array;

/** Makes the converter of a type with 4 or 5 bits: value = scale * (q - zero) + minimum. */
function nibbleDequantizer(block: NibbleBlock): Dequantize {
  const { blockBytes, zero, hasMinimum, hasFifthBits } = block;
  const nibblesAt = blockBytes - NIBBLE_BYTES;
  return (bytes) => {
    const values = new Float32Array((bytes.byteLength / blockBytes) * BLOCK_VALUES);
    let at = 0;
    for (let start = 0; start < bytes.byteLength; start += blockBytes, at += BLOCK_VALUES) {
      const scale = f16At(bytes, start);
      // Adding -0 leaves every number unchanged; adding 0 would turn -0 into 0.
      const minimum = hasMinimum ? f16At(bytes, start + 2) : -0;
      const from = start + nibblesAt;
      const low = hasFifthBits ? u16At(bytes, from - 4) : 0;
      const high = hasFifthBits ? u16At(bytes, from - 2) : 0;
      for (let i = 0; i < NIBBLE_BYTES; i++) {
        const pair = bytes[from + i] ?? 0;
        const first = (pair & 15) | (((low >>> i) & 1) << 4);
        const second = (pair >>> 4) | (((high >>> i) & 1) << 4);
        values[at + i] = scale * (first - zero) + minimum;
        values[at + NIBBLE_BYTES + i] = scale * (second - zero) + minimum;
      }
    }
    return values;
  };
}

const SYMMETRIC = { hasMinimum: false, hasFifthBits: false };
const AFFINE = { zero: 0, hasMinimum: true, hasFifthBits: false };

export const dequantizeQ4Symmetric: Dequantize = nibbleDequantizer({
  ...SYMMETRIC,
  blockBytes: Q4_0_BLOCK_BYTES,
  zero: 8,
});
export const dequantizeQ4Affine: Dequantize = nibbleDequantizer({ ...AFFINE, blockBytes: Q4_1_BLOCK_BYTES });
export const dequantizeQ5Symmetric: Dequantize = nibbleDequantizer({
  ...SYMMETRIC,
  blockBytes: Q5_0_BLOCK_BYTES,
  zero: 16,
  hasFifthBits: true,
});
export const dequantizeQ5Affine: Dequantize = nibbleDequantizer({
  ...AFFINE,
  blockBytes: Q5_1_BLOCK_BYTES,
  hasFifthBits: true,
});

/** Reads the F16 number at any alignment. */
export function f16At(bytes: Uint8Array, at: number): number {
  return F16_VALUES[u16At(bytes, at)] ?? 0;
}

function u16At(bytes: Uint8Array, at: number): number {
  return (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8);
}
