// One tensor of the Read-ME folder, from the adapter file and the base model.

import { encodeFloats, isStoredFloat, type SafetensorsInput } from "@readme-moe/model";
import type { BaseWeights } from "./base-weights.ts";
import { payloadName, sizesName, type Entry } from "./content.ts";
import { decodeDifference } from "./difference.ts";
import { scaledColumns, scalesOf, type InputScales } from "./input-scales.ts";
import type { AdapterFile } from "./open-adapter.ts";
import type { SymbolTables } from "./symbols.ts";

// No router's table is larger, and a file of a few bytes could ask for any size.
const MAX_VALUES = 2 ** 28;

/** @param neurons - of the part that the tensor belongs to */
export async function decodeTensor(
  adapter: AdapterFile,
  tables: SymbolTables,
  scales: InputScales | undefined,
  base: BaseWeights,
  file: string,
  entry: Entry,
  neurons: Int32Array | undefined,
): Promise<Uint8Array> {
  const { name, type, shape } = entry;
  const payload = payloadName(file, name);
  if (entry.coding === "whole") return adapter.read(payload);
  if (!isStoredFloat(type)) throw adapter.problem(payload, `cannot be coded as ${type}`);
  const inBase = file === "router" ? undefined : await base.inPlaceOf(name, neurons);
  const count = shape.reduce((product, size) => product * size, 1);
  if (count > MAX_VALUES) throw adapter.problem(payload, `has ${count} values, more than ${MAX_VALUES}`);
  if (inBase && inBase.length !== count) throw adapter.problem(payload, "has another size in the base model");
  if (entry.coding === "base") {
    if (!inBase) throw adapter.problem(payload, "is not in the base model");
    return encodeFloats(inBase, type);
  }
  const bytes = await adapter.read(payload);
  const sizes = entry.coding === "low-rank" ? await adapter.floats(sizesName(file, name)) : undefined;
  if (entry.coding === "low-rank" && sizes?.length !== entry.rank) {
    throw adapter.problem(sizesName(file, name), `does not hold ${entry.rank} sizes`);
  }
  const coded = decodeDifference(shape, entry, bytes, sizes, tables);
  if (!coded) throw adapter.problem(payload, "does not decode");
  const own = scalesOf(scales, file, name, neurons);
  if (own && own.length !== shape.at(-1)) throw adapter.problem(payload, "has another size than its scales");
  const change = scaledColumns(coded, own, "over");
  if (inBase) for (let i = 0; i < count; i++) change[i] = (change[i] as number) + (inBase[i] as number);
  return encodeFloats(change, type);
}

/** The type and shape that the container gives a tensor that is stored as it is have to be the entry's. */
export function checkWhole(adapter: AdapterFile, file: string, entry: Entry): void {
  const name = payloadName(file, entry.name);
  const { type, shape } = adapter.info(name);
  if (type === entry.type && shape.join() === entry.shape.join()) return;
  throw adapter.problem(name, `is ${type} [${shape.join(", ")}], not ${entry.type} [${entry.shape.join(", ")}]`);
}

export type TensorType = SafetensorsInput["type"];
