import { decodeBf16, decodeF16, decodeF32, decodeF64, F16_VALUES } from "../files/floats.ts";
import type { StoredType } from "../tensor-store.ts";

/** Converts whole blocks to their values. */
type Dequantize = (bytes: Uint8Array) => Float32Array;

/** Layout of a ggml type's values: rows are whole blocks. Plain types have blocks of one value. */
export interface GgmlType {
  readonly name: string;
  readonly blockValues: number;
  readonly blockBytes: number;
  /** Absent for refused types. */
  readonly stored?: StoredType;
  /** Converts whole blocks to their values, perhaps in the same memory. Absent for refused types and integers. */
  readonly dequantize?: Dequantize;
  /** Types to take in place of a refused one. */
  readonly instead?: string;
}

// Quantised blocks of 32 values along a row: a scale, perhaps a minimum, perhaps 32 fifth bits, then the quants. Scale
// and minimum are F16. Nibbles hold value i in the low half of byte i and value i + 16 in its high half; bit i of the
// fifth bits, a uint32, belongs to value i.
// Source: block_q* in ggml-common.h and dequantize_row_q* in ggml-quants.c of llama.cpp.

export const BLOCK_VALUES = 32;
export const Q8_0_BLOCK_BYTES = 34;
const Q4_0_BLOCK_BYTES = 18;
const Q4_1_BLOCK_BYTES = 20;
const Q5_0_BLOCK_BYTES = 22;
const Q5_1_BLOCK_BYTES = 24;

const NIBBLE_BYTES = BLOCK_VALUES / 2;

/** Converts blocks of Q8_0 (scale, 32 int8): value = scale * q. */
function dequantizeQ8(bytes: Uint8Array): Float32Array {
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

const dequantizeQ4Symmetric: Dequantize = nibbleDequantizer({
  ...SYMMETRIC,
  blockBytes: Q4_0_BLOCK_BYTES,
  zero: 8,
});
const dequantizeQ4Affine: Dequantize = nibbleDequantizer({ ...AFFINE, blockBytes: Q4_1_BLOCK_BYTES });
const dequantizeQ5Symmetric: Dequantize = nibbleDequantizer({
  ...SYMMETRIC,
  blockBytes: Q5_0_BLOCK_BYTES,
  zero: 16,
  hasFifthBits: true,
});
const dequantizeQ5Affine: Dequantize = nibbleDequantizer({
  ...AFFINE,
  blockBytes: Q5_1_BLOCK_BYTES,
  hasFifthBits: true,
});

/** Reads the F16 number at any alignment. */
function f16At(bytes: Uint8Array, at: number): number {
  return F16_VALUES[u16At(bytes, at)] ?? 0;
}

function u16At(bytes: Uint8Array, at: number): number {
  return (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8);
}

// Types whose quants are numbers of 16 fixed levels. Groups of 32 values have a scale and 16 bytes of nibbles, which
// hold value i in the low half of byte i and value i + 16 in its high half. Source: kvalues_* and block_* in
// ggml-common.h, dequantize_row_* in ggml-quants.c, and ggml_e8m0_to_fp32_half in ggml-impl.h of llama.cpp.
//
// Values have the same bits as in llama.cpp: a scale, its factor and a level have at most 24 significant bits together.

const IQ4_NL_BLOCK_BYTES = 18;
const IQ4_XS_BLOCK_BYTES = 136;
export const MXFP4_BLOCK_BYTES = 17;

/** Levels of IQ4_NL and IQ4_XS. */
const IQ4_LEVELS = Float64Array.of(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
/** Levels of MXFP4: twice the numbers of FP4 (E2M1), with 0 for its -0. */
const MXFP4_LEVELS = Float64Array.of(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
/** Scales of MXFP4: half of what an E8M0 byte stands for, since levels are doubled. The first two are subnormal. */
const HALF_E8M0_VALUES = new Float32Array(
  Int32Array.from({ length: 256 }, (_, e) => (e < 2 ? 0x20_0000 << e : (e - 1) << 23)).buffer,
);

interface LevelBlock {
  readonly blockBytes: number;
  readonly numGroups: number;
  readonly levels: Float64Array;
  readonly scaleOf: (bytes: Uint8Array, start: number, group: number) => number;
}

/** Makes the converter of a type whose nibbles are at the end of a block: value = scale * level. */
function levelDequantizer(block: LevelBlock): Dequantize {
  const { blockBytes, numGroups, levels, scaleOf } = block;
  const nibblesAt = blockBytes - numGroups * NIBBLE_BYTES;
  return (bytes) => {
    const values = new Float32Array((bytes.byteLength / blockBytes) * numGroups * BLOCK_VALUES);
    let at = 0;
    for (let start = 0; start < bytes.byteLength; start += blockBytes) {
      for (let group = 0; group < numGroups; group++, at += BLOCK_VALUES) {
        const scale = scaleOf(bytes, start, group);
        const from = start + nibblesAt + group * NIBBLE_BYTES;
        for (let i = 0; i < NIBBLE_BYTES; i++) {
          const pair = bytes[from + i] ?? 0;
          values[at + i] = scale * (levels[pair & 15] ?? 0);
          values[at + NIBBLE_BYTES + i] = scale * (levels[pair >>> 4] ?? 0);
        }
      }
    }
    return values;
  };
}

/** Converts IQ4_NL: scale, nibbles. */
const dequantizeIQ4NL: Dequantize = levelDequantizer({
  blockBytes: IQ4_NL_BLOCK_BYTES,
  numGroups: 1,
  levels: IQ4_LEVELS,
  scaleOf: f16At,
});

/**
 * Converts IQ4_XS: scale, upper 2 bits of 8 factors, their lower 4 bits, nibbles;
 * value = scale * (factor - 32) * level.
 */
const dequantizeIQ4XS: Dequantize = levelDequantizer({
  blockBytes: IQ4_XS_BLOCK_BYTES,
  numGroups: 8,
  levels: IQ4_LEVELS,
  scaleOf: (bytes, start, group) => {
    const upper = ((bytes[start + 2 + (group >>> 2)] ?? 0) >>> (2 * (group & 3))) & 3;
    const lower = ((bytes[start + 4 + (group >>> 1)] ?? 0) >>> (4 * (group & 1))) & 15;
    return f16At(bytes, start) * ((lower | (upper << 4)) - 32);
  },
});

/** Converts MXFP4: a byte that is the scale's exponent, nibbles. */
export const dequantizeMXFP4: Dequantize = levelDequantizer({
  blockBytes: MXFP4_BLOCK_BYTES,
  numGroups: 1,
  levels: MXFP4_LEVELS,
  scaleOf: (bytes, start) => HALF_E8M0_VALUES[bytes[start] ?? 0] ?? 0,
});

// The "K" types: quantised blocks of 256 values along a row. A block consists of groups of 16 or 32 values, each with
// an integer factor of the block's scale, and perhaps one of its minimum, which are F16. TQ2_0 has only the scale.
// Source: block_q*_K and block_tq2_0 in ggml-common.h, and dequantize_row_* in ggml-quants.c of llama.cpp.
//
// Values have the same bits as in llama.cpp: a scale, its group's factor and a quant have at most 24 significant bits
// together, so all products are exact, and only a subtraction is rounded, once.

const K_BLOCK_VALUES = 256;
const Q2_K_BLOCK_BYTES = 84;
const Q3_K_BLOCK_BYTES = 110;
const Q4_K_BLOCK_BYTES = 144;
const Q5_K_BLOCK_BYTES = 176;
const Q6_K_BLOCK_BYTES = 210;
const TQ2_0_BLOCK_BYTES = 66;

// Group sizes of the types with two-bit fields, and of the others.
const SMALL_GROUP = 16;
const LARGE_GROUP = 32;

/**
 * Converts Q2_K: 16 bytes of factors (scale's in the low half, minimum's in the high half), 64 bytes of quants, scale,
 * minimum; value = scale * factor * q - minimum * factor.
 */
function dequantizeQ2K(bytes: Uint8Array): Float32Array {
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
function dequantizeQ3K(bytes: Uint8Array): Float32Array {
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
function dequantizeQ4K(bytes: Uint8Array): Float32Array {
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
function dequantizeQ5K(bytes: Uint8Array): Float32Array {
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
function dequantizeQ6K(bytes: Uint8Array): Float32Array {
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
function dequantizeTQ2(bytes: Uint8Array): Float32Array {
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

function plain(name: StoredType, blockBytes: number, dequantize?: Dequantize): GgmlType {
  return { name, blockValues: 1, blockBytes, stored: name, ...(dequantize ? { dequantize } : {}) };
}

function blocks(name: StoredType, blockBytes: number, dequantize: Dequantize): GgmlType {
  return { name, blockValues: BLOCK_VALUES, blockBytes, stored: name, dequantize };
}

function kBlocks(name: StoredType, blockBytes: number, dequantize: Dequantize): GgmlType {
  return { ...blocks(name, blockBytes, dequantize), blockValues: K_BLOCK_VALUES };
}

function refused(name: string, blockBytes: number, instead: string, blockValues = K_BLOCK_VALUES): GgmlType {
  return { name, blockValues, blockBytes, instead };
}

/** The ggml types by their number in a file. Numbers and sizes: ggml.h and gguf-py's constants.py of llama.cpp. */
export const GGML_TYPES: ReadonlyMap<number, GgmlType> = new Map<number, GgmlType>([
  [0, plain("F32", 4, decodeF32)],
  [1, plain("F16", 2, decodeF16)],
  [2, blocks("Q4_0", Q4_0_BLOCK_BYTES, dequantizeQ4Symmetric)],
  [3, blocks("Q4_1", Q4_1_BLOCK_BYTES, dequantizeQ4Affine)],
  [6, blocks("Q5_0", Q5_0_BLOCK_BYTES, dequantizeQ5Symmetric)],
  [7, blocks("Q5_1", Q5_1_BLOCK_BYTES, dequantizeQ5Affine)],
  [8, blocks("Q8_0", Q8_0_BLOCK_BYTES, dequantizeQ8)],
  [10, kBlocks("Q2_K", Q2_K_BLOCK_BYTES, dequantizeQ2K)],
  [11, kBlocks("Q3_K", Q3_K_BLOCK_BYTES, dequantizeQ3K)],
  [12, kBlocks("Q4_K", Q4_K_BLOCK_BYTES, dequantizeQ4K)],
  [13, kBlocks("Q5_K", Q5_K_BLOCK_BYTES, dequantizeQ5K)],
  [14, kBlocks("Q6_K", Q6_K_BLOCK_BYTES, dequantizeQ6K)],
  [16, refused("IQ2_XXS", 66, "Q2_K")],
  [17, refused("IQ2_XS", 74, "Q2_K")],
  [18, refused("IQ3_XXS", 98, "Q3_K")],
  [19, refused("IQ1_S", 50, "Q2_K")],
  [20, blocks("IQ4_NL", IQ4_NL_BLOCK_BYTES, dequantizeIQ4NL)],
  [21, refused("IQ3_S", 110, "Q3_K")],
  [22, refused("IQ2_S", 82, "Q2_K")],
  [23, kBlocks("IQ4_XS", IQ4_XS_BLOCK_BYTES, dequantizeIQ4XS)],
  [24, plain("I8", 1)],
  [25, plain("I16", 2)],
  [26, plain("I32", 4)],
  [27, plain("I64", 8)],
  [28, plain("F64", 8, decodeF64)],
  [29, refused("IQ1_M", 56, "Q2_K")],
  [30, plain("BF16", 2, decodeBf16)],
  // Interleaved rows of Q4_0, which llama.cpp no longer reads either.
  [31, refused("Q4_0_4_4", 18, "Q4_0", 32)],
  [32, refused("Q4_0_4_8", 18, "Q4_0", 32)],
  [33, refused("Q4_0_8_8", 18, "Q4_0", 32)],
  [34, refused("TQ1_0", 54, "TQ2_0")],
  [35, kBlocks("TQ2_0", TQ2_0_BLOCK_BYTES, dequantizeTQ2)],
  [39, blocks("MXFP4", MXFP4_BLOCK_BYTES, dequantizeMXFP4)],
  [40, refused("NVFP4", 36, "MXFP4 or Q4_K", 64)],
  [41, refused("Q1_0", 18, "Q8_0", 128)],
]);

/** Finds the number of values and of bytes in a block of a quantised type; `undefined` for other types. */
export function blockLayoutOf(type: StoredType): { readonly values: number; readonly bytes: number } | undefined {
  for (const { stored, blockValues: values, blockBytes: bytes } of GGML_TYPES.values()) {
    if (stored === type) return values > 1 ? { values, bytes } : undefined;
  }
  return undefined;
}
