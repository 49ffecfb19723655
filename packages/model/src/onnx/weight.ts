// Weights of a graph: matrices and vectors, plain or quantised, in the order in which the file has them.

import { corrupt, quoted, unsupported } from "../files/errors.ts";
import { countValues } from "../tensor-store.ts";
import { bitsOf, type OnnxType, type StoredTensor } from "./stored-tensor.ts";

/** Meaning of integers: `scale · (integer - zero)`, with one scale and zero for each rectangle of the stored matrix. */
export interface Levels {
  readonly bits: 4 | 8;
  readonly isSigned: boolean;
  readonly rowsPerScale: number;
  readonly columnsPerScale: number;
  /** `[rows / rowsPerScale, scaleColumns]` */
  readonly scales: StoredTensor;
  readonly scaleColumns: number;
  /** One for each scale; `undefined` if `zero` stands for 0. Rows of integers in 4 bits may be padded. */
  readonly zeros: { readonly tensor: StoredTensor; readonly stride: number } | undefined;
  readonly zero: number;
}

/** A weight. A vector is one row. */
export interface Weight {
  readonly values: StoredTensor;
  /** Shape in the file. */
  readonly rows: number;
  readonly columns: number;
  /** Values from one row to the next; larger than `columns` if rows end in a part of a block. */
  readonly stride: number;
  /** Whether the matrix is that of the file with rows and columns exchanged. */
  readonly isTransposed: boolean;
  readonly levels: Levels | undefined;
}

/** Returns `[out, in]`, as in checkpoints. */
export function matrixShape({ rows, columns, isTransposed }: Weight): readonly [number, number] {
  return isTransposed ? [columns, rows] : [rows, columns];
}

export function transposed(weight: Weight): Weight {
  return { ...weight, isTransposed: !weight.isTransposed };
}

const FLOATS: ReadonlySet<OnnxType | undefined> = new Set<OnnxType>(["F32", "F16", "BF16", "F64"]);

export function isFloat({ type }: StoredTensor): boolean {
  return FLOATS.has(type);
}

/** Makes a weight of a constant of floats; `undefined` for other types, scalars, and more than two dimensions. */
export function plainWeight(values: StoredTensor): Weight | undefined {
  if (!isFloat(values)) return undefined;
  const { shape } = values;
  const long = shape.filter((size) => size !== 1);
  const plain = { values, isTransposed: false, levels: undefined };
  if (long.length === 1 && long[0] !== undefined) return { ...plain, rows: 1, columns: long[0], stride: long[0] };
  if (shape.length !== 2) return undefined;
  const [rows = 0, columns = 0] = shape;
  return long.length === 2 ? { ...plain, rows, columns, stride: columns } : undefined;
}

/** Parts of a tensor in integers, as `DequantizeLinear` and `MatMulInteger` take them. */
export interface IntegerParts {
  readonly values: StoredTensor;
  readonly scales: StoredTensor;
  readonly zeros: StoredTensor | undefined;
  /** Axis of scales that differ along one, 0 or 1. */
  readonly axis: number;
  /** Values per scale along `axis`; 0 for one scale for each place of the axis. */
  readonly blockSize: number;
}

const INTEGERS: Readonly<Partial<Record<OnnxType, Pick<Levels, "bits" | "isSigned">>>> = {
  I8: { bits: 8, isSigned: true },
  U8: { bits: 8, isSigned: false },
  I4: { bits: 4, isSigned: true },
  U4: { bits: 4, isSigned: false },
};

/** Makes a weight of integers. @throws {ReadMeError} when the parts do not fit together */
export function integerWeight(path: string, parts: IntegerParts): Weight {
  const { values, scales, zeros, axis, blockSize } = parts;
  const format = values.type && INTEGERS[values.type];
  const [rows = 0, columns = 0] = values.shape;
  if (format === undefined || values.shape.length !== 2 || rows * columns === 0) {
    throw unsupported(
      path,
      `tensor ${quoted(values.name)} is quantised as ${values.type} of ${values.shape.length} axes`,
    );
  }
  const numScales = countOf(scales);
  const isRows = axis === 0;
  const along = isRows ? rows : columns;
  const perScale = numScales === 1 && blockSize === 0 ? undefined : Math.max(1, blockSize);
  const other = isRows ? columns : rows;
  const expected = perScale === undefined ? 1 : Math.ceil(along / perScale) * (blockSize > 0 ? other : 1);
  const isFitting = isFloat(scales) && numScales === expected && (zeros === undefined || countOf(zeros) === numScales);
  if (!isFitting || (zeros !== undefined && zeros.type !== values.type)) {
    throw corrupt(path, `tensor ${quoted(values.name)} has ${numScales} scales or zero points, expected ${expected}`);
  }
  const [rowsPerScale, columnsPerScale] = rectangle({ rows, columns, isRows, perScale, hasBlocks: blockSize > 0 });
  const scaleColumns = Math.ceil(columns / columnsPerScale);
  const levels = { ...format, rowsPerScale, columnsPerScale, scales, scaleColumns, zero: 0 };
  const inRows = zeros && { tensor: zeros, stride: scaleColumns };
  return { values, rows, columns, stride: columns, isTransposed: false, levels: { ...levels, zeros: inRows } };
}

interface Rectangle {
  readonly rows: number;
  readonly columns: number;
  readonly isRows: boolean;
  readonly perScale: number | undefined;
  readonly hasBlocks: boolean;
}

function rectangle({ rows, columns, isRows, perScale, hasBlocks }: Rectangle): readonly [number, number] {
  if (perScale === undefined) return [rows, columns];
  if (isRows) return [perScale, hasBlocks ? 1 : columns];
  return [hasBlocks ? 1 : rows, perScale];
}

/** Parts of weights in blocks along rows, as `MatMulNBits` and `GatherBlockQuantized` take them. */
export interface BlockParts {
  readonly values: StoredTensor;
  readonly scales: StoredTensor;
  readonly zeros: StoredTensor | undefined;
  readonly rows: number;
  readonly columns: number;
  readonly bits: number;
  readonly blockSize: number;
  /** Whether each row's last block is whole in the file. */
  readonly isPadded: boolean;
}

/** Makes a weight of unsigned blocks. @throws {ReadMeError} when the parts do not fit together */
export function blockWeight(path: string, parts: BlockParts): Weight {
  const { values, scales, zeros, rows, columns, blockSize, isPadded } = parts;
  const bits = parts.bits === 4 ? 4 : 8;
  const blocks = Math.ceil(columns / blockSize);
  const stride = isPadded ? blocks * blockSize : columns;
  const isSigned = values.type === "I4" || values.type === "I8";
  const wantedBytes = Math.ceil((rows * stride * bits) / 8);
  const isSound =
    parts.bits === bits &&
    [rows, columns].every((size) => Number.isSafeInteger(size) && size > 0) &&
    blockSize >= 16 &&
    Number.isSafeInteger(Math.log2(blockSize)) &&
    byteLengthOf(values) === wantedBytes &&
    isFloat(scales) &&
    countOf(scales) === rows * blocks;
  if (!isSound) {
    const what = `[${rows}, ${columns}] in blocks of ${blockSize} with ${parts.bits} bits`;
    throw corrupt(path, `tensor ${quoted(values.name)} is said to be ${what}, its values and scales are not`);
  }
  // Rows of packed zero points begin at a byte.
  const zeroStride = zeros && (isFloat(zeros) || bits === 8 ? blocks : 2 * Math.ceil(blocks / 2));
  if (zeros && zeroStride !== undefined) {
    const bytes = isFloat(zeros) ? (rows * blocks * bitsOf(zeros.type ?? "F32")) / 8 : (rows * zeroStride * bits) / 8;
    if (byteLengthOf(zeros) !== bytes)
      throw corrupt(path, `tensor ${quoted(zeros.name)} has no zero point for each block`);
  }
  const levels: Levels = {
    bits,
    isSigned,
    rowsPerScale: 1,
    columnsPerScale: blockSize,
    scales,
    scaleColumns: blocks,
    zeros: zeros && { tensor: zeros, stride: zeroStride ?? blocks },
    // Packed bytes have their middle as zero, the types of 4 bits have 0.
    zero: values.type === "U8" ? 2 ** (bits - 1) : 0,
  };
  return { values, rows, columns, stride, isTransposed: false, levels };
}

function countOf({ shape }: StoredTensor): number {
  return countValues(shape) ?? NaN;
}

function byteLengthOf({ data }: StoredTensor): number {
  return "bytes" in data ? data.bytes.byteLength : data.byteLength;
}
