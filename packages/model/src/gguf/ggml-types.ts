import { decodeBf16, decodeF16, decodeF32, decodeF64 } from "../files/floats.ts";
import type { StoredType } from "../tensor-store.ts";
import * as small from "./dequantize.ts";
import * as k from "./k-blocks.ts";
import * as level from "./level-blocks.ts";

/** Layout of a ggml type's values: rows are whole blocks. Plain types have blocks of one value. */
export interface GgmlType {
  readonly name: string;
  readonly blockValues: number;
  readonly blockBytes: number;
  /** Absent for refused types. */
  readonly stored?: StoredType;
  /** Converts whole blocks to their values, perhaps in the same memory. Absent for refused types and integers. */
  readonly dequantize?: (bytes: Uint8Array) => Float32Array;
  /** Types to take in place of a refused one. */
  readonly instead?: string;
}

type Dequantize = NonNullable<GgmlType["dequantize"]>;

function plain(name: StoredType, blockBytes: number, dequantize?: Dequantize): GgmlType {
  return { name, blockValues: 1, blockBytes, stored: name, ...(dequantize ? { dequantize } : {}) };
}

function block(name: StoredType, blockBytes: number, dequantize: Dequantize): GgmlType {
  return { name, blockValues: small.BLOCK_VALUES, blockBytes, stored: name, dequantize };
}

function kBlock(name: StoredType, blockBytes: number, dequantize: Dequantize): GgmlType {
  return { ...block(name, blockBytes, dequantize), blockValues: k.K_BLOCK_VALUES };
}

function refused(name: string, blockBytes: number, instead: string, blockValues = k.K_BLOCK_VALUES): GgmlType {
  return { name, blockValues, blockBytes, instead };
}

/** The ggml types by their number in a file. Numbers and sizes: ggml.h and gguf-py's constants.py of llama.cpp. */
export const GGML_TYPES: ReadonlyMap<number, GgmlType> = new Map<number, GgmlType>([
  [0, plain("F32", 4, decodeF32)],
  [1, plain("F16", 2, decodeF16)],
  [2, block("Q4_0", small.Q4_0_BLOCK_BYTES, small.dequantizeQ4Symmetric)],
  [3, block("Q4_1", small.Q4_1_BLOCK_BYTES, small.dequantizeQ4Affine)],
  [6, block("Q5_0", small.Q5_0_BLOCK_BYTES, small.dequantizeQ5Symmetric)],
  [7, block("Q5_1", small.Q5_1_BLOCK_BYTES, small.dequantizeQ5Affine)],
  [8, block("Q8_0", small.Q8_0_BLOCK_BYTES, small.dequantizeQ8)],
  [10, kBlock("Q2_K", k.Q2_K_BLOCK_BYTES, k.dequantizeQ2K)],
  [11, kBlock("Q3_K", k.Q3_K_BLOCK_BYTES, k.dequantizeQ3K)],
  [12, kBlock("Q4_K", k.Q4_K_BLOCK_BYTES, k.dequantizeQ4K)],
  [13, kBlock("Q5_K", k.Q5_K_BLOCK_BYTES, k.dequantizeQ5K)],
  [14, kBlock("Q6_K", k.Q6_K_BLOCK_BYTES, k.dequantizeQ6K)],
  [16, refused("IQ2_XXS", 66, "Q2_K")],
  [17, refused("IQ2_XS", 74, "Q2_K")],
  [18, refused("IQ3_XXS", 98, "Q3_K")],
  [19, refused("IQ1_S", 50, "Q2_K")],
  [20, block("IQ4_NL", level.IQ4_NL_BLOCK_BYTES, level.dequantizeIQ4NL)],
  [21, refused("IQ3_S", 110, "Q3_K")],
  [22, refused("IQ2_S", 82, "Q2_K")],
  [23, kBlock("IQ4_XS", level.IQ4_XS_BLOCK_BYTES, level.dequantizeIQ4XS)],
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
  [35, kBlock("TQ2_0", k.TQ2_0_BLOCK_BYTES, k.dequantizeTQ2)],
  [39, block("MXFP4", level.MXFP4_BLOCK_BYTES, level.dequantizeMXFP4)],
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
