// Quantised blocks of 32 values along a row. A scale, and where there is one a minimum, is F16;
// nibbles hold value i in the low half of byte i and value i + 16 in its high half.

import { F16_VALUES } from "../files/floats.ts";

export const BLOCK_VALUES = 32;
export const Q8_0_BLOCK_BYTES = 34;
export const Q4_0_BLOCK_BYTES = 18;
export const Q4_1_BLOCK_BYTES = 20;

/** Q8_0: scale, 32 int8; value = scale * q. */
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

/** Q4_0: scale, 16 bytes of nibbles; value = scale * (q - 8). */
export function dequantizeQ4Symmetric(bytes: Uint8Array): Float32Array {
  const values = new Float32Array((bytes.byteLength / Q4_0_BLOCK_BYTES) * BLOCK_VALUES);
  let at = 0;
  for (let start = 0; start < bytes.byteLength; start += Q4_0_BLOCK_BYTES) {
    const scale = f16At(bytes, start);
    // Adding -0 leaves every number as it is; adding 0 would turn -0 into 0.
    unpackNibbles(bytes, start + 2, scale, 8, -0, values, at);
    at += BLOCK_VALUES;
  }
  return values;
}

/** Q4_1: scale, minimum, 16 bytes of nibbles; value = scale * q + minimum. */
export function dequantizeQ4Affine(bytes: Uint8Array): Float32Array {
  const values = new Float32Array((bytes.byteLength / Q4_1_BLOCK_BYTES) * BLOCK_VALUES);
  let at = 0;
  for (let start = 0; start < bytes.byteLength; start += Q4_1_BLOCK_BYTES) {
    unpackNibbles(bytes, start + 4, f16At(bytes, start), 0, f16At(bytes, start + 2), values, at);
    at += BLOCK_VALUES;
  }
  return values;
}

function unpackNibbles(
  bytes: Uint8Array,
  from: number,
  scale: number,
  zero: number,
  minimum: number,
  values: Float32Array,
  at: number,
): void {
  for (let i = 0; i < BLOCK_VALUES / 2; i++) {
    const pair = bytes[from + i] ?? 0;
    values[at + i] = scale * ((pair & 15) - zero) + minimum;
    values[at + BLOCK_VALUES / 2 + i] = scale * ((pair >>> 4) - zero) + minimum;
  }
}

function f16At(bytes: Uint8Array, at: number): number {
  return F16_VALUES[(bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8)] ?? 0;
}
