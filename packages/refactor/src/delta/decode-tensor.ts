// Makes one tensor of the Read-ME folder from a delta file and the base model.

import { encodeFloats, isStoredFloat } from "@readme-moe/model";
import type { BaseWeights } from "./base-model.ts";
import type { DeltaFile } from "./delta-file.ts";
import { countOf, payloadName, sizesName, type Entry, type IntegerCoding } from "./delta-format.ts";
import { decodeValues } from "./entropy-coder.ts";
import { scaledColumns, scalesOf, type InputScales } from "./input-scales.ts";
import type { SymbolTables } from "./integer-codes.ts";

// A file of a few bytes could ask for any size; no router's table is larger than this.
const MAX_VALUES = 2 ** 28;

/** Data for decoding, besides the entry. */
export interface DecodeContext {
  readonly delta: DeltaFile;
  readonly tables: SymbolTables;
  readonly scales: InputScales | undefined;
  readonly base: BaseWeights;
}

/** Decodes the bytes of a tensor. `neurons` are those of the tensor's part, for tensors of an FFN. */
export async function decodeTensor(
  { delta, tables, scales, base }: DecodeContext,
  file: string,
  entry: Entry,
  neurons: Int32Array | undefined,
): Promise<Uint8Array> {
  const { name, type, shape } = entry;
  const payload = payloadName(file, name);
  if (entry.coding === "whole") return delta.read(payload);
  if (!isStoredFloat(type)) throw delta.problem(payload, `cannot be coded as ${type}`);
  const inBase = file === "router" ? undefined : await base.inPlaceOf(name, neurons);
  const count = countOf(shape);
  if (count > MAX_VALUES) throw delta.problem(payload, `has ${count} values, more than ${MAX_VALUES}`);
  if (inBase && inBase.length !== count) throw delta.problem(payload, "has another size in the base model");
  if (entry.coding === "base") {
    if (!inBase) throw delta.problem(payload, "is not in the base model");
    return encodeFloats(inBase, type);
  }
  const bytes = await delta.read(payload);
  const sizes = entry.coding === "low-rank" ? await delta.floats(sizesName(file, name)) : undefined;
  if (entry.coding === "low-rank" && sizes?.length !== entry.rank) {
    throw delta.problem(sizesName(file, name), `does not hold ${entry.rank} sizes`);
  }
  const codes = decodeValues(bytes, codedCount(shape, entry), tables);
  if (!codes) throw delta.problem(payload, "does not decode");
  const own = scalesOf(scales, { file, name, neurons });
  if (own && own.length !== shape.at(-1)) throw delta.problem(payload, "has another size than its scales");
  const change = scaledColumns(changeOf(shape, entry, codes, sizes), own, "over");
  if (inBase) for (let at = 0; at < count; at++) change[at] = change[at]! + inBase[at]!;
  return encodeFloats(change, type);
}

function codedCount([rows = 1, columns = 1]: readonly number[], how: IntegerCoding): number {
  return how.coding === "steps" ? rows * columns : how.rank * (rows + columns);
}

/** Turns integers into the scaled change `[rows, columns]`. `sizes` are the singular values of `low-rank`. */
export function changeOf(
  [rows = 1, columns = 1]: readonly number[],
  how: IntegerCoding,
  codes: Int16Array,
  sizes: Float32Array = new Float32Array(),
): Float32Array {
  // Indices, since iterators take twice as long over millions of numbers.
  const { step } = how;
  const result = new Float32Array(rows * columns);
  if (how.coding === "steps") {
    for (let at = 0; at < result.length; at++) result[at] = codes[at]! * step;
    return result;
  }
  for (const [k, size] of sizes.entries()) {
    const leftFrom = k * (rows + columns);
    const rightFrom = leftFrom + rows;
    // Both factors are coded times the direction's size.
    const scale = (step * step) / size;
    for (let row = 0; row < rows; row++) {
      const left = codes[leftFrom + row]! * scale;
      const rowFrom = row * columns;
      for (let column = 0; column < columns; column++) {
        result[rowFrom + column] = result[rowFrom + column]! + left * codes[rightFrom + column]!;
      }
    }
  }
  return result;
}
