import { decodeBf16, decodeF16, decodeF32, decodeF64 } from "../files/floats.ts";
import type { StoredType } from "../tensor-store.ts";
import {
  BLOCK_VALUES,
  dequantizeQ4Affine,
  dequantizeQ4Symmetric,
  dequantizeQ5Affine,
  dequantizeQ5Symmetric,
  dequantizeQ8,
  Q4_0_BLOCK_BYTES,
  Q4_1_BLOCK_BYTES,
  Q5_0_BLOCK_BYTES,
  Q5_1_BLOCK_BYTES,
  Q8_0_BLOCK_BYTES,
} from "./dequantize.ts";
import {
  dequantizeQ2K,
  dequantizeQ3K,
  dequantizeQ4K,
  dequantizeQ5K,
  dequantizeQ6K,
  K_BLOCK_VALUES,
  Q2_K_BLOCK_BYTES,
  Q3_K_BLOCK_BYTES,
  Q4_K_BLOCK_BYTES,
  Q5_K_BLOCK_BYTES,
  Q6_K_BLOCK_BYTES,
} from "./k-blocks.ts";

/** How a ggml type lays out values: rows are whole blocks. Plain types are blocks of one value. */
export interface GgmlType {
  readonly name: string;
  readonly blockValues: number;
  readonly blockBytes: number;
  /** Absent for a type whose size is known and nothing else. */
  readonly stored?: StoredType;
  /** Whole blocks in, their values out, perhaps in the same memory. Absent for integers, too. */
  readonly dequantize?: (bytes: Uint8Array) => Float32Array;
}

/**
 * The ggml types by their number in a file. To read another block type, give its entry here `stored`
 * and `dequantize`.
 * Numbers and sizes: ggml.h and gguf-py's constants.py of llama.cpp.
 */
export const GGML_TYPES: ReadonlyMap<number, GgmlType> = new Map<number, GgmlType>([
  [0, { name: "F32", blockValues: 1, blockBytes: 4, stored: "F32", dequantize: decodeF32 }],
  [1, { name: "F16", blockValues: 1, blockBytes: 2, stored: "F16", dequantize: decodeF16 }],
  [
    2,
    {
      name: "Q4_0",
      blockValues: BLOCK_VALUES,
      blockBytes: Q4_0_BLOCK_BYTES,
      stored: "Q4_0",
      dequantize: dequantizeQ4Symmetric,
    },
  ],
  [
    3,
    {
      name: "Q4_1",
      blockValues: BLOCK_VALUES,
      blockBytes: Q4_1_BLOCK_BYTES,
      stored: "Q4_1",
      dequantize: dequantizeQ4Affine,
    },
  ],
  [
    6,
    {
      name: "Q5_0",
      blockValues: BLOCK_VALUES,
      blockBytes: Q5_0_BLOCK_BYTES,
      stored: "Q5_0",
      dequantize: dequantizeQ5Symmetric,
    },
  ],
  [
    7,
    {
      name: "Q5_1",
      blockValues: BLOCK_VALUES,
      blockBytes: Q5_1_BLOCK_BYTES,
      stored: "Q5_1",
      dequantize: dequantizeQ5Affine,
    },
  ],
  [
    8,
    { name: "Q8_0", blockValues: BLOCK_VALUES, blockBytes: Q8_0_BLOCK_BYTES, stored: "Q8_0", dequantize: dequantizeQ8 },
  ],
  [
    10,
    {
      name: "Q2_K",
      blockValues: K_BLOCK_VALUES,
      blockBytes: Q2_K_BLOCK_BYTES,
      stored: "Q2_K",
      dequantize: dequantizeQ2K,
    },
  ],
  [
    11,
    {
      name: "Q3_K",
      blockValues: K_BLOCK_VALUES,
      blockBytes: Q3_K_BLOCK_BYTES,
      stored: "Q3_K",
      dequantize: dequantizeQ3K,
    },
  ],
  [
    12,
    {
      name: "Q4_K",
      blockValues: K_BLOCK_VALUES,
      blockBytes: Q4_K_BLOCK_BYTES,
      stored: "Q4_K",
      dequantize: dequantizeQ4K,
    },
  ],
  [
    13,
    {
      name: "Q5_K",
      blockValues: K_BLOCK_VALUES,
      blockBytes: Q5_K_BLOCK_BYTES,
      stored: "Q5_K",
      dequantize: dequantizeQ5K,
    },
  ],
  [
    14,
    {
      name: "Q6_K",
      blockValues: K_BLOCK_VALUES,
      blockBytes: Q6_K_BLOCK_BYTES,
      stored: "Q6_K",
      dequantize: dequantizeQ6K,
    },
  ],
  [16, { name: "IQ2_XXS", blockValues: 256, blockBytes: 66 }],
  [17, { name: "IQ2_XS", blockValues: 256, blockBytes: 74 }],
  [18, { name: "IQ3_XXS", blockValues: 256, blockBytes: 98 }],
  [19, { name: "IQ1_S", blockValues: 256, blockBytes: 50 }],
  [20, { name: "IQ4_NL", blockValues: 32, blockBytes: 18 }],
  [21, { name: "IQ3_S", blockValues: 256, blockBytes: 110 }],
  [22, { name: "IQ2_S", blockValues: 256, blockBytes: 82 }],
  [23, { name: "IQ4_XS", blockValues: 256, blockBytes: 136 }],
  [24, { name: "I8", blockValues: 1, blockBytes: 1, stored: "I8" }],
  [25, { name: "I16", blockValues: 1, blockBytes: 2, stored: "I16" }],
  [26, { name: "I32", blockValues: 1, blockBytes: 4, stored: "I32" }],
  [27, { name: "I64", blockValues: 1, blockBytes: 8, stored: "I64" }],
  [28, { name: "F64", blockValues: 1, blockBytes: 8, stored: "F64", dequantize: decodeF64 }],
  [29, { name: "IQ1_M", blockValues: 256, blockBytes: 56 }],
  [30, { name: "BF16", blockValues: 1, blockBytes: 2, stored: "BF16", dequantize: decodeBf16 }],
  [34, { name: "TQ1_0", blockValues: 256, blockBytes: 54 }],
  [35, { name: "TQ2_0", blockValues: 256, blockBytes: 66 }],
  [39, { name: "MXFP4", blockValues: 32, blockBytes: 17 }],
]);
