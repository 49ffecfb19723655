import { decodeBf16, decodeF16, decodeF32, decodeF64 } from "../files/floats.ts";
import type { StoredType } from "../tensor-store.ts";
import * as small from "./dequantize.ts";
import * as k from "./k-blocks.ts";

/** Layout of a ggml type's values: rows are whole blocks. Plain types have blocks of one value. */
export interface GgmlType {
  readonly name: string;
  readonly blockValues: number;
  readonly blockBytes: number;
  /** Absent for types of which only the size is known. */
  readonly stored?: StoredType;
  /** Converts whole blocks to their values, perhaps in the same memory. Also absent for integers. */
  readonly dequantize?: (bytes: Uint8Array) => Float32Array;
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

/**
 * The ggml types by their number in a file. A type becomes readable by giving its entry `stored` and `dequantize`.
 * Numbers and sizes: ggml.h and gguf-py's constants.py of llama.cpp.
 */
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
  [16, { name: "IQ2_XXS", blockValues: 256, blockBytes: 66 }],
  [17, { name: "IQ2_XS", blockValues: 256, blockBytes: 74 }],
  [18, { name: "IQ3_XXS", blockValues: 256, blockBytes: 98 }],
  [19, { name: "IQ1_S", blockValues: 256, blockBytes: 50 }],
  [20, { name: "IQ4_NL", blockValues: 32, blockBytes: 18 }],
  [21, { name: "IQ3_S", blockValues: 256, blockBytes: 110 }],
  [22, { name: "IQ2_S", blockValues: 256, blockBytes: 82 }],
  [23, { name: "IQ4_XS", blockValues: 256, blockBytes: 136 }],
  [24, plain("I8", 1)],
  [25, plain("I16", 2)],
  [26, plain("I32", 4)],
  [27, plain("I64", 8)],
  [28, plain("F64", 8, decodeF64)],
  [29, { name: "IQ1_M", blockValues: 256, blockBytes: 56 }],
  [30, plain("BF16", 2, decodeBf16)],
  [34, { name: "TQ1_0", blockValues: 256, blockBytes: 54 }],
  [35, { name: "TQ2_0", blockValues: 256, blockBytes: 66 }],
  [39, { name: "MXFP4", blockValues: 32, blockBytes: 17 }],
]);
