// One tensor of the packed file.

import type { BlockType, TensorRef } from "@readme-moe/model";

/** A tensor of the packed file, whose bytes are made when the file is written. */
export interface PackedTensor {
  readonly format: TensorFormat;
  readonly numOut: number;
  readonly numIn: number;
  /** Size of the weights. */
  readonly weightBytes: number;
  /** Size of one scale per output, 0 without scales. */
  readonly scaleBytes: number;
  /** Size of one bias per output, 0 without bias. */
  readonly biasBytes: number;
  /** Rows of a file in the tensor's format, which are all that is packed. @default the tensor is made otherwise */
  readonly stored?: TensorRef | undefined;
  /** Yields weights in pieces, together `weightBytes`; then scales; then the bias. */
  parts(): PackedParts;
}

/** Rows of a model file, which the kernel packs. */
export interface RowsToPack {
  /** Numbers of the format in the packed file, and of the one that has the numbers of `rows`. */
  readonly format: number;
  readonly source: number;
  readonly numIn: number;
  /** Whole rows, as the file has them. */
  readonly rows: Uint8Array;
  /** Factors of inputs, by which floats are divided; empty for none. */
  readonly inputs: Float32Array;
  /** Gets a scale for each row in int8, and is empty otherwise. */
  readonly scales: Float32Array;
  /** Size of the packed rows, in whole panels. */
  readonly byteLength: number;
}

export type PackedPiece = Uint8Array | RowsToPack;

interface PackedParts {
  weights(): AsyncIterable<PackedPiece>;
  /** Reads one scale per output; called after all weights are packed. */
  scales(): Promise<Uint8Array>;
  bias(): Promise<Uint8Array>;
}

/** Returns the bytes of typed numbers, without a copy. */
export function bytesOf(values: Float32Array | Uint16Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** Reads a part that the tensor does not have: no bytes. */
export async function nothing(): Promise<Uint8Array> {
  return new Uint8Array(0);
}

// Panels of weights, and the formats of tensors: those of `native/tensor.h`, and blocks. `EACH_BLOCK_TYPE` of
// `native/blocks.h` has the same types, in this order.

/** Outputs are stored in panels of 64, inputs in groups of 32, both padded with zeros. */
export const PANEL = 64;
export const GROUP = 32;

export function wholePanels(numOut: number): number {
  return Math.ceil(numOut / PANEL);
}

export function wholeGroups(numIn: number): number {
  return Math.ceil(numIn / GROUP);
}

interface BlockSizes {
  /** Bits of a weight, without its scales. */
  readonly bits: number;
  /** Bytes of the scales and minimums of 32 inputs of an output. */
  readonly scaleBytes: number;
  /** Bytes of the factors that the scales of 256 inputs share. */
  readonly factorBytes: number;
}

const sizes = (bits: number, scaleBytes: number, factorBytes = 0): BlockSizes => ({ bits, scaleBytes, factorBytes });

/** Numbers of the formats without blocks. */
const PLAIN_FORMATS = { "float-table": 0, "half-table": 1, float: 2, int8: 3, F16: 5, BF16: 6 } as const;

/** Types of 16 bits, whose weights have no scales. */
export type ShortType = "F16" | "BF16";

/** Types of files, and those of fitted weights and of ONNX files, with the number of inputs that share a scale. */
export type BlockTypeName = BlockType | `${"INT8" | "INT4" | "INT4_MINIMUM"}_${16 | 32}`;

const BLOCK_TYPES: Readonly<Record<BlockTypeName, BlockSizes>> = {
  INT8_16: sizes(8, 8),
  INT8_32: sizes(8, 4),
  INT4_16: sizes(4, 8),
  INT4_32: sizes(4, 4),
  INT4_MINIMUM_16: sizes(4, 16),
  INT4_MINIMUM_32: sizes(4, 8),
  Q4_0: sizes(4, 2),
  Q4_1: sizes(4, 4),
  Q5_0: sizes(5, 2),
  Q5_1: sizes(5, 4),
  Q8_0: sizes(8, 2),
  Q2_K: sizes(2, 2, 4),
  Q3_K: sizes(3, 2, 2),
  Q4_K: sizes(4, 2, 4),
  Q5_K: sizes(5, 2, 4),
  Q6_K: sizes(6, 2, 2),
  IQ4_NL: sizes(4, 2),
  IQ4_XS: sizes(4, 1, 2),
  MXFP4: sizes(4, 1),
  TQ2_0: sizes(2, 0, 2),
};

/** Number of the first type's format; the others follow. */
const FIRST_FORMAT = 16;
/** Groups whose scales share factors. */
const SPAN_GROUPS = 8;
const NAMES = Object.keys(BLOCK_TYPES) as readonly BlockTypeName[];

export function isBlockType(name: string): name is BlockTypeName {
  return Object.hasOwn(BLOCK_TYPES, name);
}

export function isShortType(name: string): name is ShortType {
  return name === "F16" || name === "BF16";
}

/** Layout of a tensor in the packed file. */
export type TensorFormat = keyof typeof PLAIN_FORMATS | BlockTypeName;

/** Layout of weights that are multiplied. */
export type ProductFormat = Exclude<TensorFormat, "float-table" | "half-table">;

/** Returns the number that the packed file has for a format. */
export function formatNumber(format: TensorFormat): number {
  return isBlockType(format) ? FIRST_FORMAT + NAMES.indexOf(format) : PLAIN_FORMATS[format];
}

/** Computes the bytes of packed weights, without the scales of int8. */
export function productBytes(format: ProductFormat, numOut: number, numIn: number): number {
  if (format === "int8") return wholePanels(numOut) * PANEL * wholeGroups(numIn) * GROUP;
  if (!isBlockType(format)) return wholePanels(numOut) * PANEL * numIn * (format === "float" ? 4 : 2);
  const { bits, scaleBytes, factorBytes } = BLOCK_TYPES[format];
  const groupBytes = PANEL * ((GROUP * bits) / 8 + scaleBytes);
  const panelBytes =
    wholeGroups(numIn) * groupBytes + Math.floor(wholeGroups(numIn) / SPAN_GROUPS) * PANEL * factorBytes;
  return wholePanels(numOut) * panelBytes;
}
