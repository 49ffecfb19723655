// The "K" types: quantised blocks of 256 values along a row. A block consists of groups of 16 or 32 values, each with
// an integer factor of the block's scale, and perhaps one of its minimum, which are F16. TQ2_0 has only the scale.
// Source: block_q*_K and block_tq2_0 in ggml-common.h, and dequantize_row_* in ggml-quants.c of llama.cpp.
//
// Values have the same bits as in llama.cpp: a scale, its group's factor and a quant have at most 24 significant bits
// together, so all products are exact, and only a subtraction is rounded, once.

import { f16At } from "./dequantize.ts";

export const K_BLOCK_VALUES = 256;
export const Q2_K_BLOCK_BYTES = 84;
export const Q3_K_BLOCK_BYTES = 110;
export const Q4_K_BLOCK_BYTES = 144;
export const Q5_K_BLOCK_BYTES = 176;
export const Q6_K_BLOCK_BYTES = 210;
export const TQ2_0_BLOCK_BYTES = 66;

// Group sizes of the types with two-bit fields, and of the others.
const SMALL_GROUP = 16;
const LARGE_GROUP = 32;

/**
 * Converts Q2_K: 16 bytes of factors (scale's in the low half, minimum's in the high half), 64 bytes of quants, scale,
 * minimum; value = scale * factor * q - minimum * factor.
 */
export function dequantizeQ2K(bytes: Uint8Array): Float32Array {
  const values = valuesFor(bytes, Q2_K_BLOCK_BYTES);
  let at = 0;
  for (let start = 0; start < bytes.byteLength; start += Q2_K_BLOCK_BYTES) {
    const scale = f16At(bytes, start + 80);
    const minimum = f16At(bytes, start + 82);
    for (let group = 0; group < K_BLOCK_VALUES / SMALL_GROUP; group++) {
      const factors = bytes[start + group] ?? 0;
      const groupScale = scale * (factors & 15);
      const groupMinimum = minimum * (factors >>> 4);
      const from = start + 16 + twoBitOffset(group);
      const shift = twoBitShift(group);
      for (let i = from; i < from + SMALL_GROUP; i++) {
        values[at++] = groupScale * (((bytes[i] ?? 0) >>> shift) & 3) - groupMinimum;
      }
    }
  }
  return values;
}

/**
 * Converts Q3_K: 32 bytes of third bits, 64 bytes of the two lower bits, 12 bytes of factors, scale;
 * value = scale * (factor - 32) * (q - 4).
 */
export function dequantizeQ3K(bytes: Uint8Array): Float32Array {
  const values = valuesFor(bytes, Q3_K_BLOCK_BYTES);
  let at = 0;
  for (let start = 0; start < bytes.byteLength; start += Q3_K_BLOCK_BYTES) {
    const scale = f16At(bytes, start + 108);
    for (let group = 0; group < K_BLOCK_VALUES / SMALL_GROUP; group++) {
      // Factors have 6 bits: the lower 4 of two lie in each of 8 bytes, the upper 2 of four in each of 4 more.
      const low = ((bytes[start + 96 + (group & 7)] ?? 0) >>> (group < 8 ? 0 : 4)) & 15;
      const high = ((bytes[start + 104 + (group & 3)] ?? 0) >>> (2 * (group >>> 2))) & 3;
      const groupScale = scale * ((low | (high << 4)) - 32);
      const thirdBits = start + SMALL_GROUP * (group & 1);
      const thirdShift = group >>> 1;
      const from = start + 32 + twoBitOffset(group);
      const shift = twoBitShift(group);
      for (let i = 0; i < SMALL_GROUP; i++) {
        const third = ((bytes[thirdBits + i] ?? 0) >>> thirdShift) & 1;
        values[at++] = groupScale * (((((bytes[from + i] ?? 0) >>> shift) & 3) | (third << 2)) - 4);
      }
    }
  }
  return values;
}

/**
 * Converts Q4_K: scale, minimum, 12 bytes of factors, 128 of nibbles; value = scale * factor * q - minimum * factor.
 */
export function dequantizeQ4K(bytes: Uint8Array): Float32Array {
  const values = valuesFor(bytes, Q4_K_BLOCK_BYTES);
  let at = 0;
  for (let start = 0; start < bytes.byteLength; start += Q4_K_BLOCK_BYTES) {
    const scale = f16At(bytes, start);
    const minimum = f16At(bytes, start + 2);
    for (let group = 0; group < K_BLOCK_VALUES / LARGE_GROUP; group++) {
      const groupScale = scale * scaleFactor(bytes, start + 4, group);
      const groupMinimum = minimum * minimumFactor(bytes, start + 4, group);
      const from = start + 16 + nibbleOffset(group);
      const shift = nibbleShift(group);
      for (let i = from; i < from + LARGE_GROUP; i++) {
        values[at++] = groupScale * (((bytes[i] ?? 0) >>> shift) & 15) - groupMinimum;
      }
    }
  }
  return values;
}

/**
 * Converts Q5_K: like Q4_K, with 32 bytes of fifth bits before the nibbles; bit g of byte i is for value i of group g.
 */
export function dequantizeQ5K(bytes: Uint8Array): Float32Array {
  const values = valuesFor(bytes, Q5_K_BLOCK_BYTES);
  let at = 0;
  for (let start = 0; start < bytes.byteLength; start += Q5_K_BLOCK_BYTES) {
    const scale = f16At(bytes, start);
    const minimum = f16At(bytes, start + 2);
    const fifthBits = start + 16;
    for (let group = 0; group < K_BLOCK_VALUES / LARGE_GROUP; group++) {
      const groupScale = scale * scaleFactor(bytes, start + 4, group);
      const groupMinimum = minimum * minimumFactor(bytes, start + 4, group);
      const from = start + 48 + nibbleOffset(group);
      const shift = nibbleShift(group);
      for (let i = 0; i < LARGE_GROUP; i++) {
        const fifth = ((bytes[fifthBits + i] ?? 0) >>> group) & 1;
        values[at++] = groupScale * ((((bytes[from + i] ?? 0) >>> shift) & 15) | (fifth << 4)) - groupMinimum;
      }
    }
  }
  return values;
}

/**
 * Converts Q6_K: 128 bytes of the four lower bits, 64 bytes of the two upper ones, 16 int8 factors, scale;
 * value = scale * factor * (q - 32).
 */
export function dequantizeQ6K(bytes: Uint8Array): Float32Array {
  const values = valuesFor(bytes, Q6_K_BLOCK_BYTES);
  let at = 0;
  for (let start = 0; start < bytes.byteLength; start += Q6_K_BLOCK_BYTES) {
    const scale = f16At(bytes, start + 208);
    for (let group = 0; group < K_BLOCK_VALUES / SMALL_GROUP; group++) {
      const factor = ((bytes[start + 192 + group] ?? 0) << 24) >> 24;
      const groupScale = scale * factor;
      for (let i = 0; i < SMALL_GROUP; i++) values[at++] = groupScale * (q6KQuant(bytes, start, group, i) - 32);
    }
  }
  return values;
}

/** Converts TQ2_0: 64 bytes of quants, scale; value = scale * (q - 1), where ternary weights have a q of 0 to 2. */
export function dequantizeTQ2(bytes: Uint8Array): Float32Array {
  const values = valuesFor(bytes, TQ2_0_BLOCK_BYTES);
  let at = 0;
  for (let start = 0; start < bytes.byteLength; start += TQ2_0_BLOCK_BYTES) {
    const scale = f16At(bytes, start + 64);
    for (let group = 0; group < K_BLOCK_VALUES / SMALL_GROUP; group++) {
      const from = start + twoBitOffset(group);
      const shift = twoBitShift(group);
      for (let i = from; i < from + SMALL_GROUP; i++) values[at++] = scale * ((((bytes[i] ?? 0) >>> shift) & 3) - 1);
    }
  }
  return values;
}

/** Reads quant `i` of a group of a Q6_K block, in `[0, 64)`. */
function q6KQuant(bytes: Uint8Array, start: number, group: number, i: number): number {
  // In each half of the block the low halves of 64 bytes come first, then their high halves.
  const low = start + 64 * (group >>> 3) + SMALL_GROUP * (group & 3);
  const lower = ((bytes[low + i] ?? 0) >>> (group & 4)) & 15;
  const upper = ((bytes[start + 128 + twoBitOffset(group) + i] ?? 0) >>> twoBitShift(group)) & 3;
  return lower | (upper << 4);
}

function valuesFor(bytes: Uint8Array, blockBytes: number): Float32Array {
  return new Float32Array((bytes.byteLength / blockBytes) * K_BLOCK_VALUES);
}

// Two-bit fields: each half of a block has 32 bytes. Their lowest bits are the half's first two groups of
// 16, the next bits its next two, and so on.

function twoBitOffset(group: number): number {
  return LARGE_GROUP * (group >>> 3) + SMALL_GROUP * (group & 1);
}

function twoBitShift(group: number): number {
  return group & 6;
}

// Nibbles of Q4_K and Q5_K: each 32 bytes are a group of 32 in their low halves and the next in their high ones.

function nibbleOffset(group: number): number {
  return LARGE_GROUP * (group >>> 1);
}

function nibbleShift(group: number): number {
  return 4 * (group & 1);
}

// The 12 bytes of factors of Q4_K and Q5_K hold eight scales' and eight minimums', of 6 bits: the first four scales'
// in the low bits of bytes 0 to 3, the first four minimums' in those of bytes 4 to 7; of the last four, the lower
// 4 bits are the halves of bytes 8 to 11, and the upper 2 are the upper bits of bytes 0 to 7.

function scaleFactor(bytes: Uint8Array, factors: number, group: number): number {
  if (group < 4) return (bytes[factors + group] ?? 0) & 63;
  return ((bytes[factors + group + 4] ?? 0) & 15) | (((bytes[factors + group - 4] ?? 0) >>> 6) << 4);
}

function minimumFactor(bytes: Uint8Array, factors: number, group: number): number {
  if (group < 4) return (bytes[factors + group + 4] ?? 0) & 63;
  return ((bytes[factors + group + 4] ?? 0) >>> 4) | (((bytes[factors + group] ?? 0) >>> 6) << 4);
}
