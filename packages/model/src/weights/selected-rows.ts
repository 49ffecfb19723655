// Rows of a tensor, in any order, as a tensor of their own.

import { checkRows, type RowRange, type TensorInfo, type TensorStore } from "../tensor-store.ts";
import type { TensorRef } from "./tensor-ref.ts";

/** A store with one tensor: some rows of a stored matrix, as float32. */
class SelectedRows implements TensorStore {
  readonly path: string;
  readonly names: readonly string[];
  readonly #matrix: TensorRef;
  readonly #rows: readonly number[];

  constructor(matrix: TensorRef, rows: readonly number[]) {
    this.path = matrix.store.path;
    this.names = [matrix.name];
    this.#matrix = matrix;
    this.#rows = rows;
  }

  has(name: string): boolean {
    return name === this.#matrix.name;
  }

  info(name: string): TensorInfo {
    const shape = [this.#rows.length, ...this.#matrix.shape.slice(1)];
    return { name, type: "F32", shape, byteLength: 4 * shape.reduce((product, size) => product * size, 1) };
  }

  async readBytes(name: string, rows?: RowRange): Promise<Uint8Array> {
    const { buffer, byteOffset, byteLength } = await this.readFloats(name, rows);
    return new Uint8Array(buffer, byteOffset, byteLength);
  }

  async readFloats(name: string, rows?: RowRange): Promise<Float32Array> {
    const { shape } = this.info(name);
    const { from, to } = rows ?? { from: 0, to: this.#rows.length };
    checkRows(shape, { from, to });
    const { store, name: matrix } = this.#matrix;
    const read = this.#rows.slice(from, to).map((row) => store.readFloats(matrix, { from: row, to: row + 1 }));
    const parts = await Promise.all(read);
    const width = shape[1] ?? 1;
    const values = new Float32Array(parts.length * width);
    for (const [index, part] of parts.entries()) values.set(part, index * width);
    return values;
  }

  /** Leaves the store of the matrix open, which others use. */
  async close(): Promise<void> {}
}

/**
 * Refers to rows of a matrix.
 *
 * @param matrix - `[numRows, width]`
 * @param rows - indices into its rows
 * @returns `[rows.length, width]`
 * @throws {RangeError} when there is no such row
 */
export function selectRows(matrix: TensorRef, rows: readonly number[]): TensorRef {
  for (const row of rows) checkRows(matrix.shape, { from: row, to: row + 1 });
  const store = new SelectedRows(matrix, rows);
  return { store, name: matrix.name, shape: store.info(matrix.name).shape };
}
