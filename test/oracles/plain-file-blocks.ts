// Blocks of GGUF files, one value at a time: integers, and the scale and minimum of each 16 or 32 of them. Source:
// ggml-common.h and ggml-quants.c of llama.cpp.

import { plainF16 } from "../support/plain-blocks.ts";

/** A type: its file's blocks, and the integers, scales and minimums of one. */
export interface PlainType {
  readonly values: number;
  readonly bytes: number;
  /** Places of its numbers in half precision; those of MXFP4 are bytes. */
  readonly halves: readonly number[];
  readonly block: 16 | 32;
  /** `value = scale(b) * integer(i) + minimum(b)`, with b = floor(i / block). */
  readonly integer: (p: DataView, i: number) => number;
  readonly scale: (p: DataView, b: number) => number;
  readonly minimum?: (p: DataView, b: number) => number;
}

const IQ4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
const FP4 = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

const half = (p: DataView, at: number): number => plainF16(p.getUint16(at, true));
const bit = (p: DataView, at: number, index: number): number =>
  Math.floor(p.getUint8(at + (index >> 3)) / 2 ** (index & 7)) % 2;
/** Nibble of input i of 32, of which the first 16 are in the low halves. */
const nibble = (p: DataView, at: number, i: number): number =>
  i < 16 ? p.getUint8(at + i) % 16 : Math.floor(p.getUint8(at + i - 16) / 16);

/** Six bits of the scales (`part` 0) and minimums (`part` 1) of Q4_K and Q5_K. */
function sixBits(p: DataView, b: number, part: 0 | 1): number {
  const at = (i: number): number => p.getUint8(4 + i);
  if (b < 4) return at(4 * part + b) % 64;
  const low = part === 0 ? at(b + 4) % 16 : Math.floor(at(b + 4) / 16);
  return low + 16 * Math.floor(at(4 * part + b - 4) / 64);
}

/** Nibble of a block of 256, in runs of 64 whose first 32 are in the low halves. */
const longNibble = (p: DataView, at: number, i: number): number => {
  const byte = p.getUint8(at + 32 * Math.floor(i / 64) + (i % 32));
  return i % 64 < 32 ? byte % 16 : Math.floor(byte / 16);
};

/** Two bits of a block of 256, in runs of 128 of which four share 32 bytes. */
const twoBits = (p: DataView, at: number, i: number): number =>
  Math.floor(p.getUint8(at + 32 * Math.floor(i / 128) + (i % 32)) / 4 ** (Math.floor(i / 32) % 4)) % 4;

function scaleOfQ3(p: DataView, b: number): number {
  const low = b < 8 ? p.getUint8(96 + b) % 16 : Math.floor(p.getUint8(96 + b - 8) / 16);
  const high = Math.floor(p.getUint8(104 + (b % 4)) / 4 ** Math.floor(b / 4)) % 4;
  return low + 16 * high - 32;
}

function scaleOfIq4(p: DataView, b: number): number {
  const low = Math.floor(p.getUint8(4 + Math.floor(b / 2)) / 16 ** (b % 2)) % 16;
  return low + 16 * (Math.floor(p.getUint16(2, true) / 4 ** b) % 4) - 32;
}

const first = (p: DataView): number => half(p, 0);
const second = (p: DataView): number => half(p, 2);
const small = { values: 32, block: 32, scale: first } as const;
const large = { values: 256, block: 32 } as const;

export const PLAIN_TYPES: Readonly<Record<string, PlainType>> = {
  Q4_0: { ...small, bytes: 18, halves: [0], integer: (p, i) => nibble(p, 2, i) - 8 },
  Q4_1: { ...small, bytes: 20, halves: [0, 2], integer: (p, i) => nibble(p, 4, i), minimum: second },
  Q5_0: { ...small, bytes: 22, halves: [0], integer: (p, i) => nibble(p, 6, i) + 16 * bit(p, 2, i) - 16 },
  Q5_1: {
    ...small,
    bytes: 24,
    halves: [0, 2],
    integer: (p, i) => nibble(p, 8, i) + 16 * bit(p, 4, i),
    minimum: second,
  },
  Q8_0: { ...small, bytes: 34, halves: [0], integer: (p, i) => p.getInt8(2 + i) },
  IQ4_NL: { ...small, bytes: 18, halves: [0], integer: (p, i) => IQ4[nibble(p, 2, i)]! },
  MXFP4: {
    ...small,
    bytes: 17,
    halves: [],
    integer: (p, i) => FP4[nibble(p, 1, i)]!,
    scale: (p) => 2 ** (p.getUint8(0) - 128),
  },
  Q2_K: {
    ...large,
    bytes: 84,
    halves: [80, 82],
    block: 16,
    integer: (p, i) => twoBits(p, 16, i),
    scale: (p, b) => half(p, 80) * (p.getUint8(b) % 16),
    minimum: (p, b) => -half(p, 82) * Math.floor(p.getUint8(b) / 16),
  },
  Q3_K: {
    ...large,
    bytes: 110,
    halves: [108],
    block: 16,
    integer: (p, i) => twoBits(p, 32, i) + 4 * (Math.floor(p.getUint8(i % 32) / 2 ** Math.floor(i / 32)) % 2) - 4,
    scale: (p, b) => half(p, 108) * scaleOfQ3(p, b),
  },
  Q4_K: {
    ...large,
    bytes: 144,
    halves: [0, 2],
    integer: (p, i) => longNibble(p, 16, i),
    scale: (p, b) => half(p, 0) * sixBits(p, b, 0),
    minimum: (p, b) => -half(p, 2) * sixBits(p, b, 1),
  },
  Q5_K: {
    ...large,
    bytes: 176,
    halves: [0, 2],
    integer: (p, i) =>
      longNibble(p, 48, i) + 16 * (Math.floor(p.getUint8(16 + (i % 32)) / 2 ** Math.floor(i / 32)) % 2),
    scale: (p, b) => half(p, 0) * sixBits(p, b, 0),
    minimum: (p, b) => -half(p, 2) * sixBits(p, b, 1),
  },
  Q6_K: {
    ...large,
    bytes: 210,
    halves: [208],
    block: 16,
    integer(p, i) {
      const [part, l] = [Math.floor(i / 128), i % 32];
      const byte = p.getUint8(64 * part + 32 * (Math.floor(i / 32) % 2) + l);
      const low = i % 128 < 64 ? byte % 16 : Math.floor(byte / 16);
      return low + 16 * (Math.floor(p.getUint8(128 + 32 * part + l) / 4 ** (Math.floor(i / 32) % 4)) % 4) - 32;
    },
    scale: (p, b) => half(p, 208) * p.getInt8(192 + b),
  },
  IQ4_XS: {
    ...large,
    bytes: 136,
    halves: [0],
    integer: (p, i) => IQ4[nibble(p, 8 + 16 * Math.floor(i / 32), i % 32)]!,
    scale: (p, b) => half(p, 0) * scaleOfIq4(p, b),
  },
  TQ2_0: { ...large, bytes: 66, halves: [64], integer: (p, i) => twoBits(p, 0, i) - 1, scale: (p) => half(p, 64) },
};

/** Integers, scales and minimums of rows of blocks. */
export function plainFileBlocks(type: PlainType, bytes: Uint8Array) {
  const numBlocks = bytes.byteLength / type.bytes;
  const views = Array.from(
    { length: numBlocks },
    (_, block) => new DataView(bytes.buffer, bytes.byteOffset + block * type.bytes, type.bytes),
  );
  const each = (count: number, value: (p: DataView, index: number) => number): number[] =>
    views.flatMap((view) => Array.from({ length: count }, (_, index) => value(view, index)));
  const { minimum } = type;
  return {
    values: Int8Array.from(each(type.values, type.integer)),
    scales: Float32Array.from(each(type.values / type.block, type.scale)),
    minimums: minimum && Float32Array.from(each(type.values / type.block, minimum)),
  };
}
