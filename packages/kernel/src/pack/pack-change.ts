// Packs low-rank changes of a model, in the layout of `ChangeDescription` in `native/kernel.h`.

import { ReadMeError } from "@readme-moe/core";
import {
  f16BitsOf,
  type LowRankExpert,
  type LowRankProduct,
  type LowRankRefs,
  type TensorRef,
} from "@readme-moe/model";
import type { ChangeFactors } from "../change-factors.ts";
import type { InputFactors } from "./input-factors.ts";
import { aligned, UNIT_BYTES } from "./packed-file.ts";
import { PANEL, wholePanels } from "./packed-tensor.ts";

/** Number type of a change's factors. */
export type ChangePrecision = "fp32" | "fp16" | "int8";

/** Products of a layer, in the order of the kernel. */
const PRODUCTS: readonly LowRankProduct[] = ["query", "key", "value", "attentionOutput", "gate", "up", "down"];
const [MAGIC, VERSION] = [0x4352524d, 1];
const FORMATS: readonly ChangePrecision[] = ["fp32", "fp16", "int8"];
const ELEMENT_BYTES: Readonly<Record<ChangePrecision, number>> = { fp32: 4, fp16: 2, int8: 1 };
const [HEADER_WORDS, ENTRY_WORDS] = [4, 4];
/** Ranks are stored in whole vectors. */
const VECTOR = 16;

/** One product's change in the packed bytes. */
interface Place {
  readonly refs: LowRankRefs;
  readonly index: number;
  readonly rank: number;
  /** Offsets in bytes. */
  readonly lower: number;
  readonly raise: number;
  readonly scales: number;
  readonly factors: { readonly inputs?: InputFactors | undefined; readonly outputs?: InputFactors | undefined };
}

/** Assigns a place to each of an expert's products. */
function layOutChange(expert: Pick<LowRankExpert, "layers" | "head">, precision: ChangePrecision, by: ChangeFactors) {
  const numEntries = expert.layers.length * PRODUCTS.length + 1;
  let end = aligned(4 * (HEADER_WORDS + numEntries * ENTRY_WORDS));
  const take = (bytes: number): number => {
    const at = end;
    end += aligned(bytes);
    return at;
  };
  const places: Place[] = [];
  const add = (index: number, refs: LowRankRefs | undefined, factors: Place["factors"]): void => {
    if (!refs) return;
    const [numOut = 0] = refs.b.shape;
    const [, numIn = 0] = refs.a.shape;
    const rank = Math.ceil(refs.rank / VECTOR) * VECTOR;
    const each = rank * ELEMENT_BYTES[precision];
    const lower = take(numIn * each);
    const raise = take(wholePanels(numOut) * PANEL * each);
    places.push({ refs, index, rank, lower, raise, scales: take(rank * 4), factors });
  };
  for (const [layer, changes] of expert.layers.entries()) {
    for (const [at, product] of PRODUCTS.entries()) {
      add(layer * PRODUCTS.length + at, changes[product], by(layer, product));
    }
  }
  add(numEntries - 1, expert.head, {});
  return { places, numBytes: end, numLayers: expert.layers.length };
}

/** Computes the size of a packed change, without reading it. */
export function changeBytes(expert: Pick<LowRankExpert, "layers" | "head">, precision: ChangePrecision): number {
  return layOutChange(expert, precision, () => ({})).numBytes;
}

/**
 * Packs a low-rank expert. Yields its bytes in pieces, one product each, so that a thread can do other work in between.
 *
 * @param precision - in "int8" each row of `a` and each column of `b` has a scale
 * @param factors - factors of inputs and outputs that the packed model's products have; see `changeFactors`
 * @throws {ReadMeError} `ERR_MODEL_INVALID` naming a tensor with a number that is not finite
 */
export async function* packChange(
  expert: Pick<LowRankExpert, "layers" | "head">,
  precision: ChangePrecision,
  factors: ChangeFactors,
): AsyncGenerator<Uint8Array> {
  const { places, numBytes, numLayers } = layOutChange(expert, precision, factors);
  const first = places[0]?.lower ?? numBytes;
  const header = new Int32Array(first / 4);
  header.set([MAGIC, VERSION, numLayers, FORMATS.indexOf(precision)]);
  for (const { index, rank, lower, raise, scales } of places) {
    const entry = [rank, lower / UNIT_BYTES, raise / UNIT_BYTES, scales / UNIT_BYTES];
    header.set(entry, HEADER_WORDS + index * ENTRY_WORDS);
  }
  yield new Uint8Array(header.buffer);
  for (const [at, place] of places.entries()) {
    yield await packProduct(place, precision, places[at + 1]?.lower ?? numBytes);
  }
}

/** Packs one product's factors and scales, up to byte `end` of the change. */
async function packProduct(place: Place, precision: ChangePrecision, end: number): Promise<Uint8Array> {
  const { refs, rank, lower, raise, scales, factors } = place;
  const [numOut = 0] = refs.b.shape;
  const [, numIn = 0] = refs.a.shape;
  const a = await readFinite(refs.a);
  const b = await readFinite(refs.b);
  const [inputs, outputs] = [await factors.inputs?.(), await factors.outputs?.()];
  if (inputs) for (let i = 0; i < a.length; i++) a[i] = a[i]! / inputs[i % numIn]!;
  if (outputs) for (let i = 0; i < b.length; i++) b[i] = b[i]! * outputs[Math.floor(i / refs.rank)]!;
  const packed = new Uint8Array(end - lower);
  const ownScales = new Float32Array(packed.buffer, scales - lower, rank);
  const [lowered, raised] = [elementsOf(precision, packed, 0), elementsOf(precision, packed, raise - lower)];
  for (let k = 0; k < refs.rank; k++) {
    const aScale = scaleOf(a, { from: k * numIn, step: 1, count: numIn }, precision);
    const bScale = scaleOf(b, { from: k, step: refs.rank, count: numOut }, precision);
    ownScales[k] = refs.scale * aScale * bScale;
    for (let i = 0; i < numIn; i++) lowered[i * rank + k] = stored(a[k * numIn + i]! / aScale, precision);
    for (let out = 0; out < numOut; out++) {
      const vector = Math.floor(out / VECTOR);
      raised[(vector * rank + k) * VECTOR + (out % VECTOR)] = stored(b[out * refs.rank + k]! / bScale, precision);
    }
  }
  return packed;
}

function elementsOf(precision: ChangePrecision, packed: Uint8Array, from: number) {
  if (precision === "fp32") return new Float32Array(packed.buffer, from);
  return precision === "fp16" ? new Uint16Array(packed.buffer, from) : new Int8Array(packed.buffer, from);
}

/** The elements of one rank: every `step`th from the first one on. */
interface Elements {
  readonly from: number;
  readonly step: number;
  readonly count: number;
}

/** Returns the scale of one rank's elements, by which they fit the precision; 1 if all of them are 0, and for fp32. */
function scaleOf(values: Float32Array, { from, step, count }: Elements, precision: ChangePrecision): number {
  if (precision === "fp32") return 1;
  let largest = 0;
  for (let i = 0; i < count; i++) largest = Math.max(largest, Math.abs(values[from + i * step]!));
  const scale = Math.fround(precision === "int8" ? largest / 127 : largest);
  return scale > 2 ** -126 ? scale : 1;
}

function stored(value: number, precision: ChangePrecision): number {
  if (precision === "fp32") return value;
  return precision === "int8" ? Math.round(value) : halfOf(value);
}

const word = new Float32Array(1);
const bits = new Int32Array(word.buffer);

/** Rounds to the nearest half, ties to even, and returns its bits. */
function halfOf(value: number): number {
  word[0] = value;
  return f16BitsOf(bits[0]!);
}

async function readFinite({ store, name }: TensorRef): Promise<Float32Array> {
  const values = await store.readFloats(name);
  for (let i = 0; i < values.length; i++) {
    if (Number.isFinite(values[i])) continue;
    throw new ReadMeError("ERR_MODEL_INVALID", `${store.path}: tensor \`${name}\` holds ${values[i]}`);
  }
  return values;
}
