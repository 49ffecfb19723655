// What a coded tensor adds to the base model's, from integers.

import { decodeValues } from "./entropy-coder.ts";
import type { SymbolTables } from "./symbols.ts";

/** Of a coding in integers. */
type Coded =
  | { readonly coding: "steps"; readonly step: number }
  | { readonly coding: "low-rank"; readonly step: number; readonly rank: number };

/** How many integers a tensor is coded by. */
export function codedCount(shape: readonly number[], coded: Coded): number {
  const [rows = 1, columns = 1] = shape;
  return coded.coding === "steps" ? rows * columns : coded.rank * (rows + columns);
}

/**
 * @param shape - `[rows, columns]`
 * @param sizes - of the directions of a product of factors
 * @returns `[rows, columns]`; `undefined` where `payload` is not what the tensor was coded to
 */
export function decodeDifference(
  shape: readonly number[],
  coded: Coded,
  payload: Uint8Array,
  sizes: Float32Array | undefined,
  tables: SymbolTables,
): Float32Array | undefined {
  const codes = decodeValues(payload, codedCount(shape, coded), tables);
  if (!codes) return undefined;
  return coded.coding === "steps"
    ? Float32Array.from(codes, (code) => code * coded.step)
    : product(shape, codes, coded, sizes as Float32Array);
}

function product(
  [rows = 1, columns = 1]: readonly number[],
  codes: Int16Array,
  { step, rank }: { readonly step: number; readonly rank: number },
  sizes: Float32Array,
): Float32Array {
  const result = new Float32Array(rows * columns);
  for (let k = 0; k < rank; k++) {
    const from = k * (rows + columns);
    const right = codes.subarray(from + rows, from + rows + columns);
    // Both factors are coded times the direction's size.
    const scale = (step * step) / (sizes[k] as number);
    for (let row = 0, at = 0; row < rows; row++) {
      const left = (codes[from + row] as number) * scale;
      for (let column = 0; column < columns; column++, at++) {
        result[at] = (result[at] as number) + left * (right[column] as number);
      }
    }
  }
  return result;
}
