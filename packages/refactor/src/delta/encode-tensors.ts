// Encodes tensors, in the ways that were chosen, as the payloads of a delta file.

import { crc32 } from "node:zlib";
import type { SafetensorsInput } from "@readme-moe/model";
import type { Chosen } from "./allocate.ts";
import { changeOf } from "./decode-tensor.ts";
import { countOf, payloadName, sizesName, type Coding, type Entry, type PackFigures } from "./delta-format.ts";
import { encodeValues } from "./entropy-coder.ts";
import { scaledColumns, scalesOf } from "./input-scales.ts";
import { quantize, type SymbolTables } from "./integer-codes.ts";
import {
  difference,
  factorsOf,
  kindOf,
  readTarget,
  readTargetBytes,
  scaledFactors,
  squareOf,
  type PlanContext,
  type Target,
} from "./plan-tensors.ts";

/** A tensor of the container. */
export type Payload = Pick<SafetensorsInput, "name" | "type" | "shape"> & {
  readonly bytes: Uint8Array;
  readonly checksum: number;
};

/** An encoded tensor. */
export interface Encoded {
  readonly target: Target;
  readonly how: Coding;
  readonly payloads: readonly Payload[];
  /** Sum of squared differences from the base model. */
  readonly change: number;
  /** Sum of squares of what is lost of the difference. */
  readonly error: number;
}

/**
 * Encodes all tensors in the ways that were chosen for them. All payloads are in memory at the end, as large as the
 * file.
 */
export async function encodeTensors(
  targets: readonly Target[],
  { choices, tables }: Chosen,
  context: PlanContext,
  onTensor: (done: number) => void,
): Promise<readonly Encoded[]> {
  const encoded: Encoded[] = [];
  for (const [index, target] of targets.entries()) {
    onTensor(index);
    encoded.push(await encodeOne(target, choices[index]?.how ?? { coding: "whole" }, tables, context));
  }
  return encoded;
}

async function encodeOne(
  target: Target,
  how: Coding,
  tables: SymbolTables,
  { base, products, scales }: PlanContext,
): Promise<Encoded> {
  const { file, input, part } = target;
  const { name, type, shape } = input;
  if (how.coding === "whole") {
    const bytes = await readTargetBytes(target);
    const payloads = [payloadOf({ name: payloadName(file, name), type, shape }, bytes)];
    return { target, how, payloads, change: 0, error: 0 };
  }
  const neurons = part?.neurons;
  const inBase = file === "router" ? undefined : await base.inPlaceOf(name, neurons);
  const change = difference(await readTarget(target), inBase);
  const square = squareOf(change);
  if (how.coding === "base") {
    // Half precision is off by less than a thousandth of each number, which does not count as a change.
    const isRounding = inBase !== undefined && square <= 1e-6 * squareOf(inBase);
    return { target, how, payloads: [], change: isRounding ? 0 : square, error: square };
  }
  const own = scalesOf(scales, { file, name, neurons });
  const scaled = scaledColumns(change, own, "times");
  const factors = how.coding === "low-rank" ? await factorsOf(products, scaled, shape) : undefined;
  const sizes = how.coding === "low-rank" ? factors?.sizes.slice(0, how.rank) : undefined;
  const codes = quantize(factors && sizes ? scaledFactors(factors, sizes.length) : scaled, how.step);
  const decoded = scaledColumns(changeOf(shape, how, codes, sizes), own, "over");
  const bytes = encodeValues(codes, tables);
  const payloads = [payloadOf({ name: payloadName(file, name), type: "U8", shape: [bytes.length] }, bytes)];
  if (sizes) {
    const place = { name: sizesName(file, name), type: "F32", shape: [sizes.length] } as const;
    payloads.push(payloadOf(place, new Uint8Array(sizes.buffer)));
  }
  return { target, how, payloads, change: square, error: squareOf(difference(change, decoded)) };
}

export function payloadOf(place: Pick<SafetensorsInput, "name" | "type" | "shape">, bytes: Uint8Array): Payload {
  return { ...place, bytes, checksum: crc32(bytes) };
}

/** Lists the entries of each file: `backbone`, `experts/<i>` and `router`. */
export function entriesOf(encoded: readonly Encoded[]): ReadonlyMap<string, readonly Entry[]> {
  const entries = new Map<string, Entry[]>();
  for (const { target, how } of encoded) {
    const { name, type, shape } = target.input;
    const own = entries.get(target.file) ?? [];
    own.push({ name, type, shape, ...how });
    entries.set(target.file, own);
  }
  return entries;
}

/** Sums up what is changed and what is lost. */
export function figuresOf(encoded: readonly Encoded[]): PackFigures {
  const squares = new Map<string, { change: number; error: number }>();
  const codings: Record<string, number> = {};
  let changedValues = 0;
  for (const { target, how, change, error } of encoded) {
    codings[how.coding] = (codings[how.coding] ?? 0) + 1;
    if (change === 0) continue;
    changedValues += countOf(target.input.shape);
    const sums = squares.get(kindOf(target)) ?? { change: 0, error: 0 };
    squares.set(kindOf(target), { change: sums.change + change, error: sums.error + error });
  }
  const errors = [...squares].map(([kind, { change, error }]) => [kind, Math.sqrt(error / change)] as const);
  return { changed_values: changedValues, relative_errors: Object.fromEntries(errors), codings };
}
