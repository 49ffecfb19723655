// Quantised blocks of 32 values along a row. A scale, and where there is one a minimum, is F16;
// nibbles hold value i in the low half of byte i and value i + 16 in its high half. Where values have a
// fifth bit, bit i of a uint32 is that of value i. See k-blocks.ts for blocks of 256.
// Source: block_q* in ggml-common.h and dequantize_row_q* in ggml-quants.c of llama.cpp.

import { F16_VALUES } from "../files/floats.ts";

export const BLOCK_VALUES = 32;
export const Q8_0_BLOCK_BYTES = 34;
export const Q4_0_BLOCK_BYTES = 18;
export const Q4_1_BLOCK_BYTES = 20;
export const Q5_0_BLOCK_BYTES = 22;
export const Q5_1_BLOCK_BYTES = 24;

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

/** Q5_0: scale, 4 bytes of fifth bits, 16 bytes of nibbles; value = scale * (q - 16). */
export function dequantizeQ5Symmetric(bytes: Uint8Array): Float32Array {
  const values = new Float32Array((bytes.byteLength / Q5_0_BLOCK_BYTES) * BLOCK_VALUES);
  let at = 0;
  for (let start = 0; start < bytes.byteLength; start += Q5_0_BLOCK_BYTES) {
    // Adding -0, as for Q4_0.
    unpackFiveBits(bytes, start + 2, f16At(bytes, start), 16, -0, values, at);
    at += BLOCK_VALUES;
  }
  return values;
}

/** Q5_1: scale, minimum, 4 bytes of fifth bits, 16 bytes of nibbles; value = scale * q + minimum. */
export function dequantizeQ5Affine(bytes: Uint8Array): Float32Array {
  const values = new Float32Array((bytes.byteLength / Q5_1_BLOCK_BYTES) * BLOCK_VALUES);
  let at = 0;
  for (let start = 0; start < bytes.byteLength; start += Q5_1_BLOCK_BYTES) {
    unpackFiveBits(bytes, start + 4, f16At(bytes, start), 0, f16At(bytes, start + 2), values, at);
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

function unpackFiveBits(
  bytes: Uint8Array,
  from: number,
  scale: number,
  zero: number,
  minimum: number,
  values: Float32Array,
  at: number,
): void {
  const low = u16At(bytes, from);
  const high = u16At(bytes, from + 2);
  for (let i = 0; i < BLOCK_VALUES / 2; i++) {
    const pair = bytes[from + 4 + i] ?? 0;
    const first = (pair & 15) | (((low >>> i) & 1) << 4);
    const second = (pair >>> 4) | (((high >>> i) & 1) << 4);
    values[at + i] = scale * (first - zero) + minimum;
    values[at + BLOCK_VALUES / 2 + i] = scale * (second - zero) + minimum;
  }
}

/** The F16 number at any alignment. */
export function f16At(bytes: Uint8Array, at: number): number {
  return F16_VALUES[u16At(bytes, at)] ?? 0;
}

function u16At(bytes: Uint8Array, at: number): number {
  return (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8);
}
