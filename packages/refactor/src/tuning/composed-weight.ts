// Weights that are put together from several trained arrays whenever they are read, so that arrays which many weights
// have in common are kept, trained and written once.

import type { Weight } from "./decoder/decoder-weights.ts";

/** Array `[rows, columns]` that is added to a block of a weight. */
export interface WeightPart {
  readonly weight: Weight;
  /** Row of the array that each row of the block takes; all in their own order where absent. */
  readonly rows?: Int32Array | undefined;
  /** Column of the array that each column of the block takes. */
  readonly columns?: Int32Array | undefined;
  /** The block's first row. @default 0 */
  readonly row?: number;
  /** The block's first column. @default 0 */
  readonly column?: number;
}

/** Sum of parts. */
export class ComposedWeight implements Weight {
  readonly key: string;
  readonly shape: readonly [rows: number, columns: number];
  readonly #parts: readonly WeightPart[];
  #values: Float32Array | undefined;

  constructor(key: string, shape: readonly [rows: number, columns: number], parts: readonly WeightPart[]) {
    this.key = key;
    this.shape = shape;
    this.#parts = parts;
  }

  /** Adds up the parts as they are now. The array is overwritten when it is read again. */
  get values(): Float32Array {
    const values = (this.#values ??= new Float32Array(this.shape[0] * this.shape[1]));
    values.fill(0);
    for (const part of this.#parts) {
      const from = part.weight.values;
      this.#eachRow(part, (at, own, { width, columns }) => {
        if (columns) for (let i = 0; i < width; i++) values[at + i]! += from[own + columns[i]!]!;
        else for (let i = 0; i < width; i++) values[at + i]! += from[own + i]!;
      });
    }
    return values;
  }

  /**
   * Adds a gradient of this weight to those of its parts.
   *
   * @param sumOf - gradient of a part so far, zeros at first
   */
  addGradient(gradient: Float32Array, sumOf: (weight: Weight) => Float32Array): void {
    for (const part of this.#parts) {
      const sum = sumOf(part.weight);
      this.#eachRow(part, (at, own, { width, columns }) => {
        if (columns) for (let i = 0; i < width; i++) sum[own + columns[i]!]! += gradient[at + i]!;
        else for (let i = 0; i < width; i++) sum[own + i]! += gradient[at + i]!;
      });
    }
  }

  /** Calls `use` with the start of each row of a part's block, in this weight and in the part. */
  #eachRow(
    { weight, rows, columns, row = 0, column = 0 }: WeightPart,
    use: (at: number, own: number, block: { readonly width: number; readonly columns: Int32Array | undefined }) => void,
  ): void {
    const [height = 0, size = 0] = weight.shape;
    const block = { width: columns?.length ?? size, columns };
    const count = rows?.length ?? height;
    for (let i = 0; i < count; i++) {
      use((row + i) * this.shape[1] + column, (rows ? rows[i]! : i) * size, block);
    }
  }
}
