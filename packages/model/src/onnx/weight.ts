// Weights of a graph: matrices and vectors, plain or quantised, in the order in which the file has them.

import { allocateFor, corrupt, quoted, unsupported } from "../files/errors.ts";
import { transpose } from "../files/floats.ts";
import { type BlockFormat, type BlockWeights, countValues, type RowRange } from "../tensor-store.ts";
import type { OnnxFile } from "./onnx-file.ts";
import { bitsOf, floatsOf, type OnnxType, type StoredTensor } from "./proto.ts";

/** Meaning of integers: `scale · (integer - zero)`, with one scale and zero for each rectangle of the stored matrix. */
interface Levels {
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
interface IntegerParts {
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
  let [rowsPerScale, columnsPerScale] = [rows, columns];
  if (perScale !== undefined) {
    const across = blockSize > 0 ? 1 : other;
    [rowsPerScale, columnsPerScale] = isRows ? [perScale, across] : [across, perScale];
  }
  const scaleColumns = Math.ceil(columns / columnsPerScale);
  const levels = { ...format, rowsPerScale, columnsPerScale, scales, scaleColumns, zero: 0 };
  const inRows = zeros && { tensor: zeros, stride: scaleColumns };
  return { values, rows, columns, stride: columns, isTransposed: false, levels: { ...levels, zeros: inRows } };
}

/** Parts of weights in blocks along rows, as `MatMulNBits` and `GatherBlockQuantized` take them. */
interface BlockParts {
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

// Reads parts of weights as float32, and blocks as products in 4 and 8 bits take them.

/** Largest part of a turned matrix in memory, in bytes of float32. */
const BAND_BYTES = 2 ** 26;

/** Part of a matrix, in the order of the file. */
interface Rectangle {
  readonly rows: RowRange;
  readonly columns: RowRange;
}

function sizeOf({ from, to }: RowRange): number {
  return to - from;
}

/**
 * Reads rows of a matrix `[out, in]` as float32, or values of a vector.
 * @throws {ReadMeError} as `OnnxFile.read`; `ERR_FILE_UNREADABLE` when they need more memory than one array can have
 */
export async function readRows(file: OnnxFile, weight: Weight, rows: RowRange): Promise<Float32Array> {
  if (weight.rows === 1) return readRectangle(file, weight, { rows: { from: 0, to: 1 }, columns: rows });
  const [, numIn] = matrixShape(weight);
  if (!weight.isTransposed) return readRectangle(file, weight, { rows, columns: { from: 0, to: numIn } });
  const subject = `${file.path}: tensor ${quoted(weight.values.name)}`;
  const turned = allocateFor(subject, () => new Float32Array(sizeOf(rows) * numIn));
  const step = bandRows(weight);
  for (let from = rows.from; from < rows.to; from += step) {
    const to = Math.min(rows.to, from + step);
    const part = await readRectangle(file, weight, { rows: { from: 0, to: numIn }, columns: { from, to } });
    transpose(part, numIn, to - from, turned.subarray((from - rows.from) * numIn));
  }
  return turned;
}

/** Returns how many rows of a turned matrix are read at once; reading fewer takes as long. */
export function bandRows(weight: Weight): number {
  const [numOut, numIn] = matrixShape(weight);
  return Math.min(numOut, Math.max(64, Math.floor(BAND_BYTES / 4 / numIn)));
}

async function readRectangle(file: OnnxFile, weight: Weight, part: Rectangle): Promise<Float32Array> {
  const { values, levels, stride } = weight;
  const bits = levels?.bits ?? bitsOf(values.type ?? "F32");
  const bytes = await readBits(file, { tensor: values, bits, stride }, part);
  if (levels === undefined) return plainFloats(values, bytes);
  const integers = unpacked(bytes, levels.bits, levels.isSigned);
  const grid = await readGrid(file, levels, part);
  const floats = new Float32Array(sizeOf(part.rows) * sizeOf(part.columns));
  let at = 0;
  for (let row = part.rows.from; row < part.rows.to; row++) {
    for (let column = part.columns.from; column < part.columns.to;) {
      const end = Math.min(part.columns.to, levels.columnsPerScale * (1 + Math.floor(column / levels.columnsPerScale)));
      const place = grid.place(row, column);
      const [scale, zero] = [grid.scales[place]!, grid.zeros[place]!];
      for (; column < end; column++, at++) floats[at] = scale * (integers[at]! - zero);
    }
  }
  return floats;
}

function plainFloats({ type }: StoredTensor, bytes: Uint8Array): Float32Array {
  return floatsOf(type, bytes) ?? new Float32Array(0);
}

/** Values of a file in rows of `stride`. */
interface StoredRows {
  readonly tensor: StoredTensor;
  readonly bits: number;
  readonly stride: number;
}

/** Reads a rectangle; halves of bytes come as whole bytes, see `unpacked`. */
async function readBits(file: OnnxFile, stored: StoredRows, { rows, columns }: Rectangle): Promise<Uint8Array> {
  const { stride } = stored;
  const numRows = sizeOf(rows);
  const numColumns = sizeOf(columns);
  if (numColumns === stride) return readRun(file, stored, rows.from * stride, numRows * stride);
  const bytesPerRow = stored.bits === 4 ? numColumns : (numColumns * stored.bits) / 8;
  const subject = `${file.path}: tensor ${quoted(stored.tensor.name)}`;
  const bytes = allocateFor(subject, () => new Uint8Array(numRows * bytesPerRow));
  if (columns.from === 0 && numColumns * 2 >= stride) {
    // Rows that end in a part of a block: what is behind their end is read with them.
    const all = await readRun(file, stored, rows.from * stride, numRows * stride);
    const strideBytes = all.byteLength / numRows;
    for (let row = 0; row < numRows; row++) {
      bytes.set(all.subarray(row * strideBytes, row * strideBytes + bytesPerRow), row * bytesPerRow);
    }
    return bytes;
  }
  for (let row = 0; row < numRows; row++) {
    const run = await readRun(file, stored, (rows.from + row) * stride + columns.from, numColumns);
    bytes.set(run, row * bytesPerRow);
  }
  return bytes;
}

/** Reads values that follow each other; nibbles become one byte each. */
async function readRun(file: OnnxFile, { tensor, bits }: StoredRows, from: number, count: number): Promise<Uint8Array> {
  if (bits >= 8) return file.read(tensor, (from * bits) / 8, (count * bits) / 8);
  const start = Math.floor(from / 2);
  const packed = await file.read(tensor, start, Math.ceil((from + count) / 2) - start);
  const subject = `${file.path}: tensor ${quoted(tensor.name)}`;
  const nibbles = allocateFor(subject, () => new Uint8Array(count));
  for (let i = 0, at = from - 2 * start; i < count; i++, at++) nibbles[i] = (packed[at >> 1]! >>> (4 * (at & 1))) & 15;
  return nibbles;
}

/** Gives integers their signs. */
function unpacked(bytes: Uint8Array, bits: 4 | 8, isSigned: boolean): Uint8Array | Int8Array {
  if (!isSigned) return bytes;
  if (bits === 8) return new Int8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Int8Array.from(bytes, (nibble) => (nibble << 28) >> 28);
}

/** Scales and zero points of a part of a matrix. */
interface Grid {
  readonly scales: Float32Array;
  readonly zeros: ArrayLike<number>;
  /** Finds the index of the scale of a place in the matrix. */
  place(row: number, column: number): number;
}

async function readGrid(file: OnnxFile, levels: Levels, { rows }: Pick<Rectangle, "rows">): Promise<Grid> {
  const { scales, zeros, scaleColumns, rowsPerScale, columnsPerScale } = levels;
  const first = Math.floor(rows.from / rowsPerScale);
  const numRows = Math.ceil(rows.to / rowsPerScale) - first;
  const range = { rows: { from: first, to: first + numRows }, columns: { from: 0, to: scaleColumns } };
  const stored = { tensor: scales, bits: bitsOf(scales.type ?? "F32"), stride: scaleColumns };
  const scaleFloats = plainFloats(scales, await readBits(file, stored, range));
  return {
    scales: scaleFloats,
    zeros:
      zeros === undefined
        ? new Float32Array(scaleFloats.length).fill(levels.zero)
        : await readZeros(file, levels, zeros, range),
    place: (row, column) =>
      (Math.floor(row / rowsPerScale) - first) * scaleColumns + Math.floor(column / columnsPerScale),
  };
}

async function readZeros(
  file: OnnxFile,
  { bits, isSigned }: Levels,
  { tensor, stride }: NonNullable<Levels["zeros"]>,
  range: Rectangle,
): Promise<ArrayLike<number>> {
  if (!isFloat(tensor)) return unpacked(await readBits(file, { tensor, bits, stride }, range), bits, isSigned);
  return plainFloats(tensor, await readBits(file, { tensor, bits: bitsOf(tensor.type ?? "F32"), stride }, range));
}

// Kernels take blocks of these sizes that do not cross rows.
const BLOCK_SIZES = [256, 128, 64, 32, 16] as const;

/**
 * Returns the format of a weight's own blocks; `undefined` for other weights, and for blocks that products cannot take:
 * along another axis, or of 8 bits with zero points.
 */
export function blockFormatOf(weight: Weight): BlockFormat | undefined {
  const { levels, isTransposed, rows } = weight;
  if (levels === undefined || rows === 1) return undefined;
  const { bits, isSigned, zeros, zero } = levels;
  const isMiddle = zeros === undefined && zero === (isSigned ? 0 : 2 ** (bits - 1));
  if (bits === 8 && !isMiddle) return undefined;
  const perScale = isTransposed ? levels.rowsPerScale : levels.columnsPerScale;
  const [, numIn] = matrixShape(weight);
  const isWhole = (size: number): boolean => numIn % size === 0 && (perScale % size === 0 || perScale >= numIn);
  const blockSize = BLOCK_SIZES.find(isWhole);
  return blockSize === undefined ? undefined : { bits, blockSize, hasOffsets: !isMiddle };
}

/** Reads rows of a weight that has a `blockFormatOf`, without rounding again. */
export async function readBlockRows(
  file: OnnxFile,
  { weight, format }: { readonly weight: Weight; readonly format: BlockFormat },
  rows: RowRange,
): Promise<BlockWeights> {
  const { levels, isTransposed, values, stride } = weight;
  if (levels === undefined) throw new TypeError("Expected a weight in blocks");
  const [, numIn] = matrixShape(weight);
  const all = { from: 0, to: numIn };
  const part: Rectangle = isTransposed ? { rows: all, columns: rows } : { rows, columns: all };
  const bytes = await readBits(file, { tensor: values, bits: levels.bits, stride }, part);
  const grid = await readGrid(file, levels, part);
  const numOut = sizeOf(rows);
  const { bits, blockSize, hasOffsets } = format;
  const numBlocks = (numOut * numIn) / blockSize;
  const quants = new Uint8Array(numOut * numIn);
  const scales = new Float32Array(numBlocks);
  const offsets = new Float32Array(hasOffsets ? numBlocks : 0);
  const middle = 2 ** (bits - 1);
  // Two's complement around 0 becomes unsigned around the middle.
  const flip = levels.isSigned ? middle : 0;
  for (let out = 0; out < numOut; out++) {
    for (let i = 0; i < numIn; i++) {
      const byte = bytes[isTransposed ? i * numOut + out : out * numIn + i]!;
      quants[out * numIn + i] = byte ^ flip;
      if (i % blockSize !== 0) continue;
      const place = isTransposed ? grid.place(i, rows.from + out) : grid.place(rows.from + out, i);
      const block = (out * numIn + i) / blockSize;
      scales[block] = grid.scales[place]!;
      if (hasOffsets) offsets[block] = grid.scales[place]! * (middle - (grid.zeros[place]! + flip));
    }
  }
  return { bits, blockSize, hasOffsets, quants, scales, offsets };
}
