import { decodeBf16, decodeF16, decodeF32, decodeF64, F16_VALUES } from "../files/floats.ts";
import type { BlockType, StoredType } from "../tensor-store.ts";

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
  /** Places of numbers in a block. Absent for plain and refused types. */
  readonly layout?: BlockLayout;
  /** Types to take in place of a refused one. */
  readonly instead?: string;
}

export const BLOCK_VALUES = 32;
const Q8_0_BLOCK_BYTES = 34;
export const MXFP4_BLOCK_BYTES = 17;

/** Reads a number of a group in the block that begins at `start`. */
type GroupNumber = (bytes: Uint8Array, start: number, group: number) => number;

/** Layout of a quantised type: groups of values along a row, each `scale * quant + minimum`. */
export interface BlockLayout {
  readonly blockBytes: number;
  /** Offsets of the block's scale, and perhaps of its minimum, in F16. Absent for types that are only read. */
  readonly floatsAt?: readonly [scale: number, minimum?: number];
  readonly numGroups: number;
  readonly groupSize: number;
  readonly scaleOf: GroupNumber;
  /** @default nothing is added */
  readonly minimumOf?: GroupNumber;
  /** Reads a group's quants, as the numbers that the scale is multiplied by. */
  readonly readQuants: (bytes: Uint8Array, start: number, group: number, into: Int16Array) => void;
}

/**
 * Makes the converter of a type. Values have the same bits as in llama.cpp: a scale, its group's factor and a quant
 * have at most 24 significant bits together, so all products are exact, and only a sum is rounded, once.
 */
function dequantizer(layout: BlockLayout): Dequantize {
  const { blockBytes, numGroups, groupSize, scaleOf, minimumOf, readQuants } = layout;
  return (bytes) => {
    const values = new Float32Array((bytes.byteLength / blockBytes) * numGroups * groupSize);
    const quants = new Int16Array(groupSize);
    let at = 0;
    for (let start = 0; start < bytes.byteLength; start += blockBytes) {
      for (let group = 0; group < numGroups; group++) {
        const scale = scaleOf(bytes, start, group);
        // Adding -0 leaves every number unchanged; adding 0 would turn -0 into 0.
        const minimum = minimumOf?.(bytes, start, group) ?? -0;
        readQuants(bytes, start, group, quants);
        for (let i = 0; i < groupSize; i++) values[at++] = scale * quants[i]! + minimum;
      }
    }
    return values;
  };
}

/** Reads the F16 number at any alignment. */
function f16At(bytes: Uint8Array, at: number): number {
  return F16_VALUES[u16At(bytes, at)] ?? 0;
}

function u16At(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8);
}

// Blocks of 32 values: a scale, perhaps a minimum, perhaps 32 fifth bits, then the quants. Scale and minimum are F16.
// Sources: block_* and kvalues_* in ggml-common.h, dequantize_row_* in ggml-quants.c, and ggml_e8m0_to_fp32_half in
// ggml-impl.h of llama.cpp.

const ONE_GROUP = { numGroups: 1, groupSize: BLOCK_VALUES, scaleOf: f16At };
const SCALE_FIRST = { floatsAt: [0] } as const;
const MINIMUM_SECOND = {
  floatsAt: [0, 2],
  minimumOf: (bytes: Uint8Array, start: number): number => f16At(bytes, start + 2),
} as const;

/** Numbers of quants, less the one that stands for 0. */
const quantsFrom = (least: number): Int16Array => Int16Array.from({ length: 32 }, (_, quant) => least + quant);
/** Levels of IQ4_NL and IQ4_XS. */
const IQ4_LEVELS = Int16Array.of(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
/** Levels of MXFP4: twice the numbers of FP4 (E2M1), with 0 for its -0. */
const MXFP4_LEVELS = Int16Array.of(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
/** Scales of MXFP4: half of what an E8M0 byte stands for, since levels are doubled. The first two are subnormal. */
const HALF_E8M0_VALUES = new Float32Array(
  Int32Array.from({ length: 256 }, (_, e) => (e < 2 ? 0x20_0000 << e : (e - 1) << 23)).buffer,
);

/**
 * Reads 16 bytes of nibbles for each group, which hold value i in the low half of byte i and value i + 16 in its high
 * half. Bit i of the fifth bits, a uint32 in front of them, belongs to value i.
 */
function halves(nibblesAt: number, levels: Int16Array, hasFifthBits = false): BlockLayout["readQuants"] {
  return (bytes, start, group, into) => {
    const from = start + nibblesAt + 16 * group;
    const low = hasFifthBits ? u16At(bytes, from - 4) : 0;
    const high = hasFifthBits ? u16At(bytes, from - 2) : 0;
    for (let i = 0; i < 16; i++) {
      const pair = bytes[from + i]!;
      into[i] = levels[(pair & 15) | (((low >>> i) & 1) << 4)]!;
      into[16 + i] = levels[(pair >>> 4) | (((high >>> i) & 1) << 4)]!;
    }
  };
}

const Q8_0: BlockLayout = {
  ...ONE_GROUP,
  ...SCALE_FIRST,
  blockBytes: Q8_0_BLOCK_BYTES,
  readQuants: (bytes, start, _, into) => {
    for (let i = 0; i < BLOCK_VALUES; i++) into[i] = signed(bytes[start + 2 + i]!);
  },
};

const MXFP4: BlockLayout = {
  ...ONE_GROUP,
  blockBytes: MXFP4_BLOCK_BYTES,
  scaleOf: (bytes, start) => HALF_E8M0_VALUES[bytes[start]!]!,
  readQuants: halves(1, MXFP4_LEVELS),
};
export const dequantizeMXFP4: Dequantize = dequantizer(MXFP4);

function signed(byte: number): number {
  return (byte << 24) >> 24;
}

// Blocks of 256 values: groups of 16 or 32 values have an integer factor of the block's scale, and perhaps one of its
// minimum, which are F16. TQ2_0 has only the scale.

const SMALL_GROUPS = { numGroups: 16, groupSize: 16 };
const LARGE_GROUPS = { numGroups: 8, groupSize: 32 };

/** Two-bit fields: each half of a block has 32 bytes, whose lowest bits are its first two groups, and so on. */
const twoBitOffset = (group: number): number => 32 * (group >>> 3) + 16 * (group & 1);
const twoBitShift = (group: number): number => group & 6;

/** Reads two-bit fields; bits 2 of quants, where they have one, are in the block's first 32 bytes. */
function pairs(quantsAt: number, zero: number, hasThirdBits = false): BlockLayout["readQuants"] {
  return (bytes, start, group, into) => {
    const from = start + quantsAt + twoBitOffset(group);
    const shift = twoBitShift(group);
    for (let i = 0; i < 16; i++) {
      const third = hasThirdBits ? (bytes[start + 16 * (group & 1) + i]! >>> (group >>> 1)) & 1 : 0;
      into[i] = (((bytes[from + i]! >>> shift) & 3) | (third << 2)) - zero;
    }
  };
}

/** Reads nibbles: each 32 bytes are a group in their low halves and the next in their high ones. */
function nibbles(quantsAt: number, hasFifthBits = false): BlockLayout["readQuants"] {
  return (bytes, start, group, into) => {
    const from = start + quantsAt + 32 * (group >>> 1);
    const shift = 4 * (group & 1);
    for (let i = 0; i < 32; i++) {
      const fifth = hasFifthBits ? (bytes[start + 16 + i]! >>> group) & 1 : 0;
      into[i] = ((bytes[from + i]! >>> shift) & 15) | (fifth << 4);
    }
  };
}

/**
 * Scale and minimum of Q4_K and Q5_K. The 12 bytes of factors behind them hold eight scales' and eight minimums', of
 * 6 bits: the first four scales' in the low bits of bytes 0 to 3, the first four minimums' in those of bytes 4 to 7; of
 * the last four, the lower 4 bits are the halves of bytes 8 to 11, and the upper 2 are the upper bits of bytes 0 to 7.
 */
const WITH_MINIMUM = {
  ...LARGE_GROUPS,
  floatsAt: [0, 2],
  scaleOf: (bytes: Uint8Array, start: number, group: number): number => {
    const at = start + 4 + group;
    const factor = group < 4 ? bytes[at]! & 63 : (bytes[at + 4]! & 15) | ((bytes[at - 4]! >>> 6) << 4);
    return f16At(bytes, start) * factor;
  },
  minimumOf: (bytes: Uint8Array, start: number, group: number): number => {
    const at = start + 4 + group;
    const factor = group < 4 ? bytes[at + 4]! & 63 : (bytes[at + 4]! >>> 4) | ((bytes[at]! >>> 6) << 4);
    return -f16At(bytes, start + 2) * factor;
  },
} as const;

/** Factors, the scale's in the low halves and the minimum's in the high ones; quants, scale, minimum. */
const Q2_K: BlockLayout = {
  ...SMALL_GROUPS,
  blockBytes: 84,
  floatsAt: [80, 82],
  scaleOf: (bytes, start, group) => f16At(bytes, start + 80) * (bytes[start + group]! & 15),
  minimumOf: (bytes, start, group) => -f16At(bytes, start + 82) * (bytes[start + group]! >>> 4),
  readQuants: pairs(16, 0),
};

/** Third bits, lower bits, 12 bytes of factors, scale. */
const Q3_K: BlockLayout = {
  ...SMALL_GROUPS,
  blockBytes: 110,
  floatsAt: [108],
  scaleOf: (bytes, start, group) => {
    // Factors have 6 bits: the lower 4 of two lie in each of 8 bytes, the upper 2 of four in each of 4 more.
    const low = (bytes[start + 96 + (group & 7)]! >>> (group < 8 ? 0 : 4)) & 15;
    const high = (bytes[start + 104 + (group & 3)]! >>> (2 * (group >>> 2))) & 3;
    return f16At(bytes, start + 108) * ((low | (high << 4)) - 32);
  },
  readQuants: pairs(32, 4, true),
};

/** Lower bits, the low halves of 64 bytes before the high ones in each half; upper bits, factors, scale. */
const Q6_K: BlockLayout = {
  ...SMALL_GROUPS,
  blockBytes: 210,
  floatsAt: [208],
  scaleOf: (bytes, start, group) => f16At(bytes, start + 208) * signed(bytes[start + 192 + group]!),
  readQuants: (bytes, start, group, into) => {
    const low = start + 64 * (group >>> 3) + 16 * (group & 3);
    const high = start + 128 + twoBitOffset(group);
    for (let i = 0; i < 16; i++) {
      const upper = (bytes[high + i]! >>> twoBitShift(group)) & 3;
      into[i] = (((bytes[low + i]! >>> (group & 4)) & 15) | (upper << 4)) - 32;
    }
  },
};

/** Scale, upper 2 bits of 8 factors, their lower 4 bits, nibbles. */
const IQ4_XS: BlockLayout = {
  ...LARGE_GROUPS,
  blockBytes: 136,
  scaleOf: (bytes, start, group) => {
    const upper = (bytes[start + 2 + (group >>> 2)]! >>> (2 * (group & 3))) & 3;
    const lower = (bytes[start + 4 + (group >>> 1)]! >>> (4 * (group & 1))) & 15;
    return f16At(bytes, start) * ((lower | (upper << 4)) - 32);
  },
  readQuants: halves(8, IQ4_LEVELS),
};

const TQ2_0: BlockLayout = {
  ...SMALL_GROUPS,
  blockBytes: 66,
  scaleOf: (bytes, start) => f16At(bytes, start + 64),
  readQuants: pairs(0, 1),
};

function plain(name: StoredType, blockBytes: number, dequantize?: Dequantize): GgmlType {
  return { name, blockValues: 1, blockBytes, stored: name, ...(dequantize ? { dequantize } : {}) };
}

function blocks(name: StoredType, layout: BlockLayout): GgmlType {
  const { blockBytes, numGroups, groupSize } = layout;
  return {
    name,
    blockValues: numGroups * groupSize,
    blockBytes,
    stored: name,
    layout,
    dequantize: dequantizer(layout),
  };
}

/** Describes a type of one group, whose quants are at the end of the block. */
function oneGroup(
  name: StoredType,
  blockBytes: number,
  layout: Pick<BlockLayout, "readQuants" | "minimumOf" | "floatsAt">,
): GgmlType {
  return blocks(name, { ...ONE_GROUP, blockBytes, ...layout });
}

function refused(name: string, blockBytes: number, instead: string, blockValues = 256): GgmlType {
  return { name, blockValues, blockBytes, instead };
}

/** The ggml types by their number in a file. Numbers and sizes: ggml.h and gguf-py's constants.py of llama.cpp. */
export const GGML_TYPES: ReadonlyMap<number, GgmlType> = new Map<number, GgmlType>([
  [0, plain("F32", 4, decodeF32)],
  [1, plain("F16", 2, decodeF16)],
  [2, oneGroup("Q4_0", 18, { ...SCALE_FIRST, readQuants: halves(2, quantsFrom(-8)) })],
  [3, oneGroup("Q4_1", 20, { ...MINIMUM_SECOND, readQuants: halves(4, quantsFrom(0)) })],
  [6, oneGroup("Q5_0", 22, { ...SCALE_FIRST, readQuants: halves(6, quantsFrom(-16), true) })],
  [7, oneGroup("Q5_1", 24, { ...MINIMUM_SECOND, readQuants: halves(8, quantsFrom(0), true) })],
  [8, blocks("Q8_0", Q8_0)],
  [10, blocks("Q2_K", Q2_K)],
  [11, blocks("Q3_K", Q3_K)],
  [12, blocks("Q4_K", { ...WITH_MINIMUM, blockBytes: 144, readQuants: nibbles(16) })],
  [13, blocks("Q5_K", { ...WITH_MINIMUM, blockBytes: 176, readQuants: nibbles(48, true) })],
  [14, blocks("Q6_K", Q6_K)],
  [16, refused("IQ2_XXS", 66, "Q2_K")],
  [17, refused("IQ2_XS", 74, "Q2_K")],
  [18, refused("IQ3_XXS", 98, "Q3_K")],
  [19, refused("IQ1_S", 50, "Q2_K")],
  [20, oneGroup("IQ4_NL", 18, { readQuants: halves(2, IQ4_LEVELS) })],
  [21, refused("IQ3_S", 110, "Q3_K")],
  [22, refused("IQ2_S", 82, "Q2_K")],
  [23, blocks("IQ4_XS", IQ4_XS)],
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
  [35, blocks("TQ2_0", TQ2_0)],
  [39, blocks("MXFP4", MXFP4)],
  [40, refused("NVFP4", 36, "MXFP4 or Q4_K", 64)],
  [41, refused("Q1_0", 18, "Q8_0", 128)],
]);

/** Finds the ggml type of a stored type, with its number in a file. */
export function ggmlTypeOf(type: string): (GgmlType & { readonly id: number }) | undefined {
  for (const [id, one] of GGML_TYPES) if (one.stored === type) return { id, ...one };
  return undefined;
}

/** Tells whether a name is that of a type of blocks that are read. */
export function isBlockType(name: string): name is BlockType {
  return (ggmlTypeOf(name)?.blockValues ?? 1) > 1;
}

/** Finds the number of values and of bytes in a block of a quantised type; `undefined` for other types. */
export function blockLayoutOf(type: StoredType): { readonly values: number; readonly bytes: number } | undefined {
  const { blockValues: values = 1, blockBytes: bytes = 0 } = ggmlTypeOf(type) ?? {};
  return values > 1 ? { values, bytes } : undefined;
}
