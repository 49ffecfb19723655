// Chosen tensors as the payloads of an adapter file.

import type { SafetensorsInput } from "@readme-moe/model";
import type { Matrix } from "../linear-algebra/matrix.ts";
import type { Products } from "../linear-algebra/products.ts";
import { ffnLayerOf, type BaseWeights } from "./base-weights.ts";
import { factorsOf, scaledFactors, squareOf } from "./choices.ts";
import type { Chosen } from "./choose.ts";
import { payloadName, sizesName, type Coding, type Entry, type PackFigures } from "./content.ts";
import { codedCount, decodeDifference } from "./difference.ts";
import { decodeValues, encodeValues } from "./entropy-coder.ts";
import { scaledColumns, scalesOf } from "./input-scales.ts";
import type { MeasuredInputs } from "./measure-inputs.ts";
import { difference, type TensorPlan } from "./plan-tensors.ts";
import { errorFactor, roundTogether } from "./rounding.ts";
import type { SymbolTables } from "./symbols.ts";
import { kindOf, readTarget, readTargetBytes, type Target } from "./targets.ts";

export interface EncodedTensors {
  /** One for each plan. */
  readonly tensors: readonly Encoded[];
  readonly tables: SymbolTables;
  /** By file. */
  readonly entries: ReadonlyMap<string, readonly Entry[]>;
  readonly payloads: readonly Payload[];
  readonly figures: PackFigures;
}

export type Payload = Pick<SafetensorsInput, "name" | "type" | "shape"> & { readonly bytes: Uint8Array };

/**
 * All payloads are in memory at the end: they are no larger than the file.
 *
 * @param before - of the same plans with other choices: what is coded as it was there is not rounded again
 */
export async function encodeTensors(
  plans: readonly TensorPlan[],
  chosen: Chosen,
  base: BaseWeights,
  products: Products,
  inputs: MeasuredInputs | undefined,
  before: EncodedTensors | undefined,
  onTensor: (done: number) => void,
): Promise<EncodedTensors> {
  const { tables } = chosen;
  const tensors: Encoded[] = [];
  const entries = new Map<string, Entry[]>();
  const squares = new Map<string, { change: number; error: number }>();
  const codings: Record<string, number> = {};
  let changedValues = 0;
  for (const [index, { target }] of plans.entries()) {
    onTensor(index);
    const { how } = chosen.choices[index] as Chosen["choices"][number];
    const { name, type, shape } = target.input;
    const same = before?.tensors[index];
    const encoded =
      before && same?.how === how
        ? withTables(same, shape, before.tables, tables)
        : { how, ...(await encodeOne(target, how, tables, base, products, inputs)) };
    tensors.push(encoded);
    const own = entries.get(target.file);
    const entry: Entry = { name, type, shape, ...how };
    if (own) own.push(entry);
    else entries.set(target.file, [entry]);
    codings[how.coding] = (codings[how.coding] ?? 0) + 1;
    if (encoded.change > 0) {
      changedValues += shape.reduce((product, size) => product * size, 1);
      const sums = squares.get(kindOf(target)) ?? { change: 0, error: 0 };
      squares.set(kindOf(target), { change: sums.change + encoded.change, error: sums.error + encoded.error });
    }
  }
  const relativeErrors = [...squares].map(([kind, { change, error }]) => [kind, Math.sqrt(error / change)] as const);
  return {
    tensors,
    tables,
    entries,
    payloads: tensors.flatMap(({ payloads }) => payloads),
    figures: { changed_values: changedValues, relative_errors: Object.fromEntries(relativeErrors), codings },
  };
}

/** Squares of what differs from the base model, and of what is lost of it. */
interface Encoded {
  readonly how: Coding;
  readonly payloads: readonly Payload[];
  readonly change: number;
  readonly error: number;
}

async function encodeOne(
  target: Target,
  how: Coding,
  tables: SymbolTables,
  base: BaseWeights,
  products: Products,
  inputs: MeasuredInputs | undefined,
): Promise<Omit<Encoded, "how">> {
  const { file, input } = target;
  const { name, type, shape } = input;
  if (how.coding === "whole") {
    const bytes = await readTargetBytes(target);
    return { payloads: [{ name: payloadName(file, name), type, shape, bytes }], change: 0, error: 0 };
  }
  const inBase = file === "router" ? undefined : await base.inPlaceOf(name, target.part?.neurons);
  const change = difference(await readTarget(target), inBase);
  const square = squareOf(change);
  if (how.coding === "base") return { payloads: [], change: isRounding(square, inBase) ? 0 : square, error: square };
  const [rows = 1, columns = 1] = shape;
  const own = scalesOf(inputs?.scales, file, name, target.part?.neurons);
  const scaled = scaledColumns(change, own, "times");
  const factors = how.coding === "low-rank" ? await factorsOf(products, scaled, rows, columns) : undefined;
  const sizes = factors?.sizes.slice(0, how.coding === "low-rank" ? how.rank : 0);
  const coded = factors && sizes ? scaledFactors(factors, sizes.length) : scaled;
  const factor = how.coding === "steps" ? factorOf(target, own, base, inputs) : undefined;
  const bytes = encodeValues(roundTogether(coded, how.step, factor), tables);
  const decoded = scaledColumns(decodeDifference(shape, how, bytes, sizes, tables) as Float32Array, own, "over");
  const payloads: Payload[] = [{ name: payloadName(file, name), type: "U8", shape: [bytes.length], bytes }];
  if (sizes) {
    const sizeBytes = new Uint8Array(sizes.buffer);
    payloads.push({ name: sizesName(file, name), type: "F32", shape: [sizes.length], bytes: sizeBytes });
  }
  return { payloads, change: square, error: squareOf(difference(change, decoded)) };
}

/** The same integers by other tables: it takes long to find them, and hardly any time to read them. */
function withTables(encoded: Encoded, shape: readonly number[], from: SymbolTables, to: SymbolTables): Encoded {
  const { how, payloads } = encoded;
  const [coded, ...sizes] = payloads;
  if (how.coding === "base" || how.coding === "whole" || !coded) return encoded;
  const bytes = encodeValues(decodeValues(coded.bytes, codedCount(shape, how), from) as Int16Array, to);
  return { ...encoded, payloads: [{ ...coded, shape: [bytes.length], bytes }, ...sizes] };
}

/** Of weights that neurons are multiplied by, where it is known what comes of them together. */
function factorOf(
  { input: { name }, part }: Target,
  scales: Float32Array | undefined,
  { model: { config } }: BaseWeights,
  inputs: MeasuredInputs | undefined,
): Matrix | undefined {
  const gram = inputs?.grams[ffnLayerOf(name) ?? -1];
  if (!gram || !part || !scales || !name.endsWith("down_proj.weight")) return undefined;
  return errorFactor(gram, config.intermediateSize, part.neurons, scales);
}

/** Half precision is off by less than a thousandth of each number. */
function isRounding(square: number, inBase: Float32Array | undefined): boolean {
  return inBase !== undefined && square <= 1e-6 * squareOf(inBase);
}
