import { integerOption } from "@readme-moe/core";
import type { RowRange } from "./tensor-store.ts";

/** The product of `shape`, or `undefined` when it is no safe integer. An empty dimension makes it 0, whatever the others are. */
export function countValues(shape: readonly number[]): number | undefined {
  if (shape.includes(0)) return 0;
  let count = 1;
  for (const size of shape) count *= size;
  return Number.isSafeInteger(count) ? count : undefined;
}

/**
 * Where `rows` lie within a tensor's bytes.
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
 * @returns how many rows a tensor of this shape has
 * @throws {RangeError} when `rows` leave it
 */
export function checkRows(shape: readonly number[], rows: RowRange): number {
  const numRows = shape[0] ?? 1;
  integerOption("rows.from", rows.from, 0, numRows);
  integerOption("rows.to", rows.to, rows.from, numRows);
  return numRows;
}
