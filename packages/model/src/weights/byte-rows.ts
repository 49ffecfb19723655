// Tables whose rows are stored as signed bytes with a scale each, and read as float32.

import { encodeFloats } from "../files/floats.ts";
import type { SafetensorsInput } from "../safetensors/write-safetensors.ts";
import { checkRows, type RowRange, type TensorInfo, type TensorStore } from "../tensor-store.ts";
import { tensorRef, type TensorRef } from "./tensor-ref.ts";

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
  return { store: new ByteRowStore(stored, tensorRef(store, scalesName(name), [shape[0]])), name, shape };
}

/** A store with one table, as float32. */
class ByteRowStore implements TensorStore {
  readonly path: string;
  readonly names: readonly string[];
  readonly #codes: TensorRef;
  readonly #scales: TensorRef;

  constructor(codes: TensorRef, scales: TensorRef) {
    this.path = codes.store.path;
    this.names = [codes.name];
    this.#codes = codes;
    this.#scales = scales;
  }

  has(name: string): boolean {
    return name === this.#codes.name;
  }

  info(name: string): TensorInfo {
    const { store, name: stored, shape } = this.#codes;
    return { name, type: "F32", shape, byteLength: 4 * store.info(stored).byteLength };
  }

  async readBytes(name: string, rows?: RowRange): Promise<Uint8Array> {
    return encodeFloats(await this.readFloats(name, rows), "F32");
  }

  async readFloats(_name: string, rows?: RowRange): Promise<Float32Array> {
    const { store, name, shape } = this.#codes;
    const { from, to } = rows ?? { from: 0, to: shape[0] ?? 0 };
    checkRows(shape, { from, to });
    const [codes, scales] = await Promise.all([
      store.readBytes(name, { from, to }),
      this.#scales.store.readFloats(this.#scales.name, { from, to }),
    ]);
    return fromByteRows({ codes: new Int8Array(codes.buffer, codes.byteOffset, codes.byteLength), scales });
  }

  /** Leaves the store of the table open, which others use. */
  async close(): Promise<void> {}
}

function scalesName(name: string): string {
  return name.replace(/\.weight$/, ".scales");
}
