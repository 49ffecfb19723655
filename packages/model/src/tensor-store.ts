import { integerOption } from "@readme-moe/core";
import type { ByteSource } from "./files/read-file.ts";

/** GGUF's quantised types. `_K` types, IQ4_XS and TQ2_0 have blocks of 256 values along a row, others of 32. */
export type BlockType =
  | "Q8_0"
  | "Q4_0"
  | "Q4_1"
  | "Q5_0"
  | "Q5_1"
  | "Q2_K"
  | "Q3_K"
  | "Q4_K"
  | "Q5_K"
  | "Q6_K"
  | "IQ4_NL"
  | "IQ4_XS"
  | "MXFP4"
  | "TQ2_0";

/** Element types of the tensors in a checkpoint. */
export type StoredType = "F64" | "F32" | "F16" | "BF16" | "I64" | "I32" | "I16" | "I8" | "U8" | "BOOL" | BlockType;

/** A tensor's description in the header of its file. */
export interface TensorInfo {
  readonly name: string;
  readonly type: StoredType;
  /** Outermost dimension first, as in PyTorch; `[]` is a scalar. */
  readonly shape: readonly number[];
  readonly byteLength: number;
}

/** The rows `[from, to)` of a tensor's outermost dimensions; a scalar counts as one row. */
export interface RowRange {
  readonly from: number;
  readonly to: number;
  /**
   * Number of outermost dimensions that rows are counted through, in [1, dimensions - 1]: with 2, row i of matrix m of
   * a stack `[matrices, rows, columns]` is row `m * rows + i`.
   *
   * @default 1
   */
  readonly axes?: number | undefined;
}

/**
 * The tensors of a checkpoint by name, read on demand.
 *
 * A safetensors file, a sharded checkpoint and a GGUF file implement it. Names are always those of Hugging Face
 * checkpoints (`model.layers.0.self_attn.q_proj.weight`), and rows of q_proj and k_proj are always in Hugging Face
 * order, whatever the order in the file is.
 */
export interface TensorStore {
  /** The file, for messages. */
  readonly path: string;
  /** Names in the order of the file. */
  readonly names: readonly string[];
  has(name: string): boolean;
  /**
   * @throws {ReadMeError} `ERR_MODEL_INVALID`, naming file and tensor, when there is no such tensor;
   *   `ERR_MODEL_UNSUPPORTED` when its type is none of `StoredType`
   */
  info(name: string): TensorInfo;
  /**
   * Reads a tensor's bytes as they are stored (little-endian, row-major, blocks unchanged), or only those of some
   * `rows`. The caller owns the result.
   * @throws {ReadMeError} as `info`; `ERR_FILE_CORRUPT` when the file no longer holds the bytes; `ERR_DISPOSED` after
   *   `close`
   * @throws {RangeError} when `rows` leaves the tensor
   */
  readBytes(name: string, rows?: RowRange): Promise<Uint8Array>;
  /**
   * Reads a tensor as float32, row-major, or only some `rows`. The caller owns the result.
   * @throws {ReadMeError} as `readBytes`; `ERR_MODEL_INVALID` when the stored type is neither a float nor a block type
   * @throws {RangeError} when `rows` leaves the tensor
   */
  readFloats(name: string, rows?: RowRange): Promise<Float32Array>;
  /**
   * Finds the blocks of a tensor in stores whose blocks are no `StoredType`; `undefined` for a tensor without blocks.
   * @throws {ReadMeError} as `info`
   */
  blocks?(name: string): StoredBlocks | undefined;
  /** Finds where a tensor's bytes lie in a file, as `readBytes` gives them; `undefined` where they lie otherwise. */
  placeOf?(name: string): FilePlace | undefined;
  close(): Promise<void>;
}

/** Successive bytes of a file. */
export interface FilePlace {
  readonly file: ByteSource;
  readonly offset: number;
  readonly byteLength: number;
}

/** Returns the product of `shape`, or `undefined` when it is no safe integer. An empty dimension makes it 0. */
export function countValues(shape: readonly number[]): number | undefined {
  if (shape.includes(0)) return 0;
  let count = 1;
  for (const size of shape) count *= size;
  return Number.isSafeInteger(count) ? count : undefined;
}

/**
 * Returns the place of `rows` within a tensor's bytes.
 * @throws {RangeError} when they leave the tensor
 */
export function rowBytes(
  tensor: { readonly shape: readonly number[]; readonly byteLength: number },
  rows: RowRange | undefined,
): { readonly offset: number; readonly byteLength: number } {
  if (rows === undefined) return { offset: 0, byteLength: tensor.byteLength };
  const numRows = checkRows(tensor.shape, rows);
  // An empty tensor may have more rows than a product with their size could count.
  const bytesPerRow = tensor.byteLength === 0 ? 0 : tensor.byteLength / numRows;
  return { offset: rows.from * bytesPerRow, byteLength: (rows.to - rows.from) * bytesPerRow };
}

/**
 * @returns the number of rows of a tensor of this shape
 * @throws {RangeError} when `rows` leave it
 */
export function checkRows(shape: readonly number[], rows: RowRange): number {
  const { axes = 1 } = rows;
  integerOption("rows.axes", axes, 1, Math.max(1, shape.length - 1));
  const numRows = shape.slice(0, axes).reduce((product, size) => product * size, 1);
  integerOption("rows.from", rows.from, 0, numRows);
  integerOption("rows.to", rows.to, rows.from, numRows);
  return numRows;
}

// Weights in blocks along their rows, as block-wise products take them.

type BlockBits = 4 | 8;

/** Storage format of weights in blocks. */
export interface BlockFormat {
  readonly bits: BlockBits;
  /** Number of values per block, a power of two from 16 to 256. */
  readonly blockSize: number;
  /** Whether blocks have an offset beside their scale. */
  readonly hasOffsets: boolean;
}

/** Weights `scale · (quant - middle) + offset`; `middle` is 8 for 4 bits and 128 for 8. */
export interface BlockWeights extends BlockFormat {
  /** One per value, in `[0, 2^bits)`, row-major. */
  readonly quants: Uint8Array<ArrayBuffer>;
  /** One per block. */
  readonly scales: Float32Array<ArrayBuffer>;
  /** One per block; empty without `hasOffsets`. */
  readonly offsets: Float32Array<ArrayBuffer>;
}

/** Blocks of a file as they are: every row is a whole number of them. */
export interface StoredBlocks {
  readonly format: BlockFormat;
  read(): Promise<BlockWeights>;
}

export function middleOf(bits: BlockBits): number {
  return bits === 4 ? 8 : 128;
}
