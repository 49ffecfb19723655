// Tensors of float32 that are computed from stored ones: chosen rows, and tables of signed bytes with scales.

import { encodeFloats } from "../files/floats.ts";
import type { SafetensorsInput } from "../safetensors/safetensors-file.ts";
import { checkRows, countValues, type RowRange, type TensorStore } from "../tensor-store.ts";
import { type TensorRef, tensorRef } from "./model-weights.ts";

/** Refers to a float32 tensor whose rows are computed from tensors of a store, which stays open. */
export function computedTensor(
  { store, name }: TensorRef,
  shape: readonly number[],
  readRows: (rows: RowRange) => Promise<Float32Array>,
): TensorRef {
  const readFloats = async (_name: string, rows: RowRange = { from: 0, to: shape[0] ?? 0 }): Promise<Float32Array> => {
    checkRows(shape, rows);
    return readRows(rows);
  };
  const computed: TensorStore = {
    path: store.path,
    names: [name],
    has: (other) => other === name,
    info: () => ({ name, type: "F32", shape, byteLength: 4 * (countValues(shape) ?? 0) }),
    readBytes: async (_name, rows) => encodeFloats(await readFloats(name, rows), "F32"),
    readFloats,
    close: async () => undefined,
  };
  return { store: computed, name, shape };
}

/**
 * Refers to rows of a matrix, in the type that it is stored in.
 *
 * @param matrix - `[numRows, width]`
 * @param rows - indices into its rows
 * @returns `[rows.length, width]`
 * @throws {RangeError} when there is no such row
 */
export function selectRows(matrix: TensorRef, rows: readonly number[]): TensorRef {
  for (const row of rows) checkRows(matrix.shape, { from: row, to: row + 1 });
  const { store, name, shape: whole } = matrix;
  const shape = [rows.length, ...whole.slice(1)];
  const { type, byteLength } = store.info(name);
  /** Reads runs of rows, and puts them side by side. */
  const read = async <Numbers extends Float32Array | Uint8Array>(
    wanted: RowRange | undefined,
    readRows: (range: RowRange) => Promise<Numbers>,
  ): Promise<readonly Numbers[]> => {
    const { from, to } = wanted ?? { from: 0, to: rows.length };
    checkRows(shape, { from, to });
    return Promise.all(runsOf(rows.slice(from, to)).map(readRows));
  };
  const chosen: TensorStore = {
    path: store.path,
    names: [name],
    has: (other) => other === name,
    info: () => ({ name, type, shape, byteLength: (byteLength / (whole[0] ?? 1)) * rows.length }),
    readBytes: async (_name, wanted) => Buffer.concat(await read(wanted, (range) => store.readBytes(name, range))),
    readFloats: async (_name, wanted) => {
      const parts = await read(wanted, (range) => store.readFloats(name, range));
      const values = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
      let at = 0;
      for (const part of parts) {
        values.set(part, at);
        at += part.length;
      }
      return values;
    },
    close: async () => undefined,
  };
  return { store: chosen, name, shape };
}

/** Refers to rows `[from, to)` of a matrix, or a matrix `[1, columns, rows]` of a stack by its number, transposed. */
export function transposed(source: TensorRef, own: RowRange, [rows, columns]: readonly [number, number]): TensorRef {
  return computedTensor(source, [rows, columns], async ({ from, to }) => {
    const values = await source.store.readFloats(source.name, own);
    const turned = new Float32Array((to - from) * columns);
    for (let row = from; row < to; row++)
      for (let column = 0; column < columns; column++)
        turned[(row - from) * columns + column] = values[column * rows + row]!;
    return turned;
  });
}

/** Joins successive rows. */
function runsOf(rows: readonly number[]): readonly RowRange[] {
  const runs: { from: number; to: number }[] = [];
  for (const row of rows) {
    const last = runs.at(-1);
    if (last?.to === row) last.to = row + 1;
    else runs.push({ from: row, to: row + 1 });
  }
  return runs;
}

/** Refers to the rows of one matrix, and then those of a vector or matrix of the same width. */
export function joinRows(first: TensorRef, second: TensorRef): TensorRef {
  const [numRows = 0, width = 0] = first.shape;
  const numOthers = (countValues(second.shape) ?? 0) / width;
  return computedTensor(first, [numRows + numOthers, width], async ({ from, to }) => {
    const both = [await first.store.readFloats(first.name), await second.store.readFloats(second.name)];
    const values = new Float32Array((numRows + numOthers) * width);
    for (const [index, rows] of both.entries()) values.set(rows, index * numRows * width);
    return values.subarray(from * width, to * width);
  });
}

// Tables whose rows are stored as signed bytes with a scale each, and read as float32.

const MOST = 127;

/** Rows of equal length. A value is its code times the scale of its row, rounded to float32. */
export interface ByteRows {
  readonly codes: Int8Array;
  /** One for each row. */
  readonly scales: Float32Array;
}

/**
 * Rounds each row to 255 steps between its largest magnitude and the negative of it.
 * @param values - finite, a whole number of rows
 * @param width - length of a row
 */
export function toByteRows(values: Float32Array, width: number): ByteRows {
  const codes = new Int8Array(values.length);
  const scales = new Float32Array(values.length / width);
  for (let row = 0; row < scales.length; row++) {
    const [from, to] = [row * width, (row + 1) * width];
    let largest = 0;
    for (let i = from; i < to; i++) largest = Math.max(largest, Math.abs(values[i]!));
    scales[row] = largest / MOST;
    const scale = scales[row]!;
    // Rows of zeros, and of numbers so small that the scale is rounded to 0.
    if (scale === 0) continue;
    for (let i = from; i < to; i++) codes[i] = Math.min(MOST, Math.max(-MOST, Math.round(values[i]! / scale)));
  }
  return { codes, scales };
}

/** Computes the values of rows. */
export function fromByteRows({ codes, scales }: ByteRows): Float32Array {
  const width = codes.length / scales.length;
  const values = new Float32Array(codes.length);
  for (let row = 0; row < scales.length; row++) {
    const scale = scales[row]!;
    for (let i = row * width; i < (row + 1) * width; i++) values[i] = codes[i]! * scale;
  }
  return values;
}

/** Lists the tensors that hold a table: its codes under its own name, and the scales beside it. */
export function byteRowTensors(name: string, { codes, scales }: ByteRows): readonly SafetensorsInput[] {
  const shape = [scales.length, codes.length / scales.length];
  const bytes = new Uint8Array(codes.buffer, codes.byteOffset, codes.byteLength);
  return [
    { name, type: "I8", shape, bytes: async () => bytes },
    { name: scalesName(name), type: "F32", shape: [scales.length], bytes: async () => encodeFloats(scales, "F32") },
  ];
}

/**
 * Finds a table that is stored as floats or as signed bytes with scales.
 * @throws {ReadMeError} `ERR_MODEL_INVALID` naming file and tensor, when it or its scales are missing or have another
 *   shape
 */
export function tableRef(store: TensorStore, name: string, shape: readonly [rows: number, width: number]): TensorRef {
  const stored = tensorRef(store, name, shape);
  if (store.info(name).type !== "I8") return stored;
  const scales = tensorRef(store, scalesName(name), [shape[0]]);
  return computedTensor(stored, shape, async (rows) => {
    const [codes, factors] = await Promise.all([store.readBytes(name, rows), store.readFloats(scales.name, rows)]);
    return fromByteRows({ codes: new Int8Array(codes.buffer, codes.byteOffset, codes.byteLength), scales: factors });
  });
}

function scalesName(name: string): string {
  return name.replace(/\.weight$/, ".scales");
}
