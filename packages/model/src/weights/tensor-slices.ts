// Matrices within tensors that hold those of several experts.

import { ReadMeError } from "@readme-moe/core";
import { quoted } from "../files/errors.ts";
import {
  checkRows,
  countValues,
  type FilePlace,
  type RowRange,
  type TensorInfo,
  type TensorStore,
} from "../tensor-store.ts";
import type { TensorRef } from "./tensor-ref.ts";

/** A matrix within a tensor of three dimensions. */
interface Slice {
  readonly source: TensorRef;
  /** First row of the matrix, counted through the tensor's first two dimensions. */
  readonly firstRow: number;
  readonly shape: readonly [rows: number, columns: number];
}

/**
 * Store whose tensors are matrices within tensors `[matrices, rows, columns]` of another store. A matrix, and some rows
 * of it, are read without the others. Closing it does nothing: the other store is closed by its owner.
 */
export class TensorSlices implements TensorStore {
  readonly path: string;
  readonly #slices = new Map<string, Slice>();

  /** @param path - of the other store, for messages */
  constructor(path: string) {
    this.path = path;
  }

  get names(): readonly string[] {
    return [...this.#slices.keys()];
  }

  /**
   * Adds a matrix.
   *
   * @param source - `[matrices, rows, columns]`
   * @param part - index of the matrix, and which of its rows
   * @throws {RangeError} when `part` leaves the tensor
   */
  add(name: string, source: TensorRef, part: { readonly matrix: number; readonly rows: RowRange }): TensorRef {
    const [, rowsEach = 0, columns = 0] = source.shape;
    const { matrix, rows } = part;
    const [from, to] = [matrix * rowsEach + rows.from, matrix * rowsEach + rows.to];
    checkRows(source.shape, { from, to, axes: 2 });
    const shape = [rows.to - rows.from, columns] as const;
    this.#slices.set(name, { source, firstRow: from, shape });
    return { store: this, name, shape };
  }

  has(name: string): boolean {
    return this.#slices.has(name);
  }

  info(name: string): TensorInfo {
    const { source, shape } = this.#slice(name);
    const { type, byteLength } = source.store.info(source.name);
    const share = byteLength === 0 ? 0 : (countValues(shape) ?? 0) / (countValues(source.shape) ?? 1);
    return { name, type, shape, byteLength: byteLength * share };
  }

  async readBytes(name: string, rows?: RowRange): Promise<Uint8Array> {
    const { source } = this.#slice(name);
    return source.store.readBytes(source.name, this.#rowsOf(name, rows));
  }

  async readFloats(name: string, rows?: RowRange): Promise<Float32Array> {
    const { source } = this.#slice(name);
    return source.store.readFloats(source.name, this.#rowsOf(name, rows));
  }

  placeOf(name: string): FilePlace | undefined {
    const { source, firstRow } = this.#slice(name);
    const whole = source.store.placeOf?.(source.name);
    const { shape, byteLength } = this.info(name);
    const offset = (whole?.offset ?? 0) + (firstRow * byteLength) / (shape[0] ?? 1);
    return whole && { ...whole, offset, byteLength };
  }

  async close(): Promise<void> {}

  #rowsOf(name: string, rows: RowRange | undefined): RowRange {
    const { firstRow, shape } = this.#slice(name);
    const wanted = rows ?? { from: 0, to: shape[0] };
    checkRows(shape, wanted);
    return { from: firstRow + wanted.from, to: firstRow + wanted.to, axes: 2 };
  }

  #slice(name: string): Slice {
    const slice = this.#slices.get(name);
    if (slice === undefined) throw new ReadMeError("ERR_MODEL_INVALID", `${this.path}: has no tensor ${quoted(name)}`);
    return slice;
  }
}
