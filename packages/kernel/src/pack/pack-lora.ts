// Packs loras, low-rank experts of a model, in the layout of `LoraDescription` in `native/kernel.h`.

import { ReadMeError } from "@readme-moe/core";
import {
  f16BitsOf,
  type InputStatistics,
  type Lora,
  type LoraProduct,
  type LoraRefs,
  type ModelWeights,
  type Precision,
  type TensorRef,
} from "@readme-moe/model";
import { GROUP, PANEL, wholeGroups, wholePanels } from "./block-types.ts";
import { inputFactors, type InputFactors } from "./pack-product.ts";
import { aligned, UNIT_BYTES } from "./packed-file.ts";

/** Number type of a lora's factors. */
export type LoraPrecision = "fp32" | "fp16" | "int8";

/** Products of a layer, in the order of the kernel. */
const PRODUCTS: readonly LoraProduct[] = ["query", "key", "value", "attentionOutput", "gate", "up", "down"];
const [MAGIC, VERSION] = [0x4352524d, 1];
const FORMATS: readonly LoraPrecision[] = ["fp32", "fp16", "int8"];
const ELEMENT_BYTES: Readonly<Record<LoraPrecision, number>> = { fp32: 4, fp16: 2, int8: 1 };
const [HEADER_WORDS, ENTRY_WORDS] = [4, 4];
/** Number of products whose factors are read at once. */
const READ_TOGETHER = 32;
/** Ranks are stored in whole vectors. */
const VECTOR = 16;

/** One product's factors in the packed bytes. */
interface Place {
  readonly refs: LoraRefs;
  readonly index: number;
  readonly rank: number;
  /** Offsets in bytes. */
  readonly lower: number;
  readonly raise: number;
  readonly scales: number;
  readonly factors: { readonly inputs?: InputFactors | undefined; readonly outputs?: InputFactors | undefined };
}

/** Assigns a place to each of an expert's products. */
function layOutLora(expert: Pick<Lora, "layers" | "head">, precision: LoraPrecision, by: LoraFactors) {
  const numEntries = expert.layers.length * PRODUCTS.length + 1;
  let end = aligned(4 * (HEADER_WORDS + numEntries * ENTRY_WORDS));
  const take = (bytes: number): number => {
    const at = end;
    end += aligned(bytes);
    return at;
  };
  const places: Place[] = [];
  const add = (index: number, refs: LoraRefs | undefined, factors: Place["factors"]): void => {
    if (!refs) return;
    const [numOut = 0] = refs.b.shape;
    const [, numIn = 0] = refs.a.shape;
    const rank = Math.ceil(refs.rank / VECTOR) * VECTOR;
    const each = rank * ELEMENT_BYTES[precision];
    // Bytes are multiplied by whole groups of inputs.
    const lower = take((precision === "int8" ? wholeGroups(numIn) * GROUP : numIn) * each);
    const raise = take(wholePanels(numOut) * PANEL * each);
    places.push({ refs, index, rank, lower, raise, scales: take(rank * 4), factors });
  };
  for (const [layer, products] of expert.layers.entries()) {
    for (const [at, product] of PRODUCTS.entries()) {
      add(layer * PRODUCTS.length + at, products[product], by(layer, product));
    }
  }
  add(numEntries - 1, expert.head, {});
  return { places, numBytes: end, numLayers: expert.layers.length };
}

/** Computes the size of a packed lora, without reading it. */
export function loraBytes(expert: Pick<Lora, "layers" | "head">, precision: LoraPrecision): number {
  return layOutLora(expert, precision, () => ({})).numBytes;
}

/**
 * Packs a lora. Yields its bytes in pieces, one product each, so that a thread can do other work in between.
 *
 * @param precision - in "int8" each row of `a` and each column of `b` has a scale
 * @param factors - factors of inputs and outputs that the packed model's products have; see `loraFactors`
 * @throws {ReadMeError} `ERR_MODEL_INVALID` naming a tensor with a number that is not finite
 */
export async function* packLora(
  expert: Pick<Lora, "layers" | "head">,
  precision: LoraPrecision,
  factors: LoraFactors,
): AsyncGenerator<Uint8Array> {
  const { places, numBytes, numLayers } = layOutLora(expert, precision, factors);
  const first = places[0]?.lower ?? numBytes;
  const header = new Int32Array(first / 4);
  header.set([MAGIC, VERSION, numLayers, FORMATS.indexOf(precision)]);
  for (const { index, rank, lower, raise, scales } of places) {
    const entry = [rank, lower / UNIT_BYTES, raise / UNIT_BYTES, scales / UNIT_BYTES];
    header.set(entry, HEADER_WORDS + index * ENTRY_WORDS);
  }
  yield new Uint8Array(header.buffer);
  for (let from = 0; from < places.length; from += READ_TOGETHER) {
    const some = places.slice(from, from + READ_TOGETHER);
    const read = await Promise.all(some.map(readFactors));
    for (const [at, factorsRead] of read.entries()) {
      yield packProduct(factorsRead, precision, places[from + at + 1]?.lower ?? numBytes);
    }
  }
}

/** A product's factors in float32, as the packed model needs them. */
interface ReadFactors {
  readonly place: Place;
  /** `[rank, numIn]` and `[numOut, rank]`. */
  readonly a: Float32Array;
  readonly b: Float32Array;
}

async function readFactors(place: Place): Promise<ReadFactors> {
  const { refs, factors } = place;
  const [, numIn = 0] = refs.a.shape;
  const [a, b, inputs, outputs] = await Promise.all([
    refs.a.store.readFloats(refs.a.name),
    refs.b.store.readFloats(refs.b.name),
    factors.inputs?.(),
    factors.outputs?.(),
  ]);
  if (inputs) for (let i = 0; i < a.length; i++) a[i] = a[i]! / inputs[i % numIn]!;
  if (outputs) for (let i = 0; i < b.length; i++) b[i] = b[i]! * outputs[Math.floor(i / refs.rank)]!;
  return { place, a, b };
}

/** Packs one product's factors and scales, up to byte `end` of the lora. */
function packProduct({ place, a, b }: ReadFactors, precision: LoraPrecision, end: number): Uint8Array {
  const { refs, rank, lower, raise, scales } = place;
  const [numOut = 0] = refs.b.shape;
  const [, numIn = 0] = refs.a.shape;
  // A factor of 0 is the byte 128.
  const packed = new Uint8Array(end - lower).fill(precision === "int8" ? 128 : 0);
  const ownScales = new Float32Array(packed.buffer, scales - lower, rank).fill(0);
  const elements = elementsOf(precision, packed, raise - lower);
  const row = new Float32Array(numIn);
  const column = new Float32Array(numOut);
  const ownRank = refs.rank;
  for (let k = 0; k < ownRank; k++) {
    row.set(a.subarray(k * numIn, (k + 1) * numIn));
    for (let out = 0, at = k; out < numOut; out++, at += ownRank) column[out] = b[at]!;
    const [aScale, bScale] = [scaleOf(row, refs.a, precision), scaleOf(column, refs.b, precision)];
    ownScales[k] = refs.scale * aScale * bScale;
    const [lowered, raised] = [rounded(row, aScale, precision), rounded(column, bScale, precision)];
    if (precision === "int8") {
      scatterQuads(lowered, elements.lowered, { place: k, step: rank });
      scatterOutputs(raised, elements.raised, { place: k, rank });
      continue;
    }
    for (let i = 0, at = k; i < numIn; i++, at += rank) elements.lowered[at] = lowered[i]!;
    for (let out = 0; out < numOut; out++) {
      elements.raised[((out >> 4) * rank + k) * VECTOR + (out & 15)] = raised[out]!;
    }
  }
  return packed;
}

/** Writes the bytes of one rank's inputs, `[numIn / 4][rank][4]`. */
function scatterQuads(
  values: Float32Array,
  into: Elements,
  { place, step }: { readonly place: number; readonly step: number },
): void {
  const { length } = values;
  for (let i = 0, start = 4 * place; i < length; start += 4 * step) {
    for (let at = start; at < start + 4 && i < length; at++, i++) into[at] = values[i]! + 128;
  }
}

/** Writes the bytes of one rank's outputs, `[vectors][rank / 4][16][4]`. */
function scatterOutputs(
  values: Float32Array,
  into: Elements,
  { place, rank }: { readonly place: number; readonly rank: number },
): void {
  const { length } = values;
  const first = (place >> 2) * 4 * VECTOR + (place & 3);
  for (let out = 0, start = first; out < length; start += rank * VECTOR) {
    for (let at = start; at < start + 4 * VECTOR && out < length; at += 4, out++) into[at] = values[out]! + 128;
  }
}

/** Divides by a scale, in place, and rounds to elements of the precision: halves as their bits. */
function rounded(values: Float32Array, scale: number, precision: LoraPrecision): Float32Array {
  if (precision === "fp32") return values;
  if (precision === "int8") {
    for (let i = 0; i < values.length; i++) values[i] = Math.round(values[i]! / scale);
    return values;
  }
  for (let i = 0; i < values.length; i++) values[i] = halfOf(values[i]! / scale);
  return values;
}

type Elements = Float32Array | Uint16Array | Uint8Array;

function elementsOf(
  precision: LoraPrecision,
  packed: Uint8Array,
  raise: number,
): { readonly lowered: Elements; readonly raised: Elements } {
  const { buffer } = packed;
  if (precision === "fp32") return { lowered: new Float32Array(buffer), raised: new Float32Array(buffer, raise) };
  if (precision === "fp16") return { lowered: new Uint16Array(buffer), raised: new Uint16Array(buffer, raise) };
  return { lowered: packed, raised: packed.subarray(raise) };
}

/**
 * Returns the scale of one rank's elements, by which they fit the precision; 1 if all of them are 0, and for fp32.
 * @throws {ReadMeError} `ERR_MODEL_INVALID` when one is not finite
 */
function scaleOf(values: Float32Array, { store, name }: TensorRef, precision: LoraPrecision): number {
  let largest = 0;
  // A NaN stays the largest.
  for (let i = 0; i < values.length; i++) largest = Math.max(largest, Math.abs(values[i]!));
  if (!Number.isFinite(largest)) {
    const message = `${store.path}: tensor \`${name}\` holds ${largest}, which is not finite`;
    throw new ReadMeError("ERR_MODEL_INVALID", message);
  }
  if (precision === "fp32") return 1;
  const scale = Math.fround(precision === "int8" ? largest / 127 : largest);
  return scale > 2 ** -126 ? scale : 1;
}

const word = new Float32Array(1);
const bits = new Int32Array(word.buffer);

/** Rounds to the nearest half, ties to even, and returns its bits. */
function halfOf(value: number): number {
  word[0] = value;
  return f16BitsOf(bits[0]!);
}

/** Factors of the inputs of one layer's products; `undefined` where inputs are as the model has them. */
export interface LayerFactors {
  /** Inputs of query, key and value. */
  readonly attends: InputFactors | undefined;
  /** Inputs of gate and up of each part of the FFN. */
  readonly feeds: InputFactors | undefined;
  /** Inputs of `down` of one part of the FFN, by which the outputs of `up` are multiplied. */
  readonly gated: (part: string) => InputFactors | undefined;
}

/** Finds the factors with which `describeModel` packs a layer. */
export function layerFactors(
  { layers }: Pick<ModelWeights, "layers">,
  index: number,
  precision: Precision,
  calibration: InputStatistics | undefined,
): LayerFactors {
  const factorsOf = (name: string): InputFactors | undefined =>
    precision === "int8" && calibration ? inputFactors(calibration, name) : undefined;
  const { attentionNorm, ffnNorm } = layers[index]!;
  // Factors of inputs are folded into the norm in front of the products, if there is one.
  return {
    attends: attentionNorm && factorsOf(`layers.${index}.attention.qkv`),
    feeds: ffnNorm && factorsOf(`layers.${index}.ffn`),
    gated: (part) => factorsOf(`${part}.down`),
  };
}

/** Finds the factors of one product of a layer, for `packLora`. */
export type LoraFactors = (
  layer: number,
  product: LoraProduct,
) => { readonly inputs?: InputFactors | undefined; readonly outputs?: InputFactors | undefined };

/** Finds the factors of a dense model's products; arguments as for `describeModel`. */
export function loraFactors(
  weights: Pick<ModelWeights, "layers">,
  precision: Precision,
  calibration?: InputStatistics,
): LoraFactors {
  return (layer, product) => {
    const { attends, feeds, gated } = layerFactors(weights, layer, precision, calibration);
    const own = gated(`layers.${layer}.ffn`);
    switch (product) {
      case "query":
      case "key":
      case "value":
        return { inputs: attends };
      case "attentionOutput":
        return {};
      case "gate":
        return { inputs: feeds };
      case "up":
        return { inputs: feeds, outputs: own };
      case "down":
        return { inputs: own };
      default:
        throw new TypeError(`Unknown product: ${String(product satisfies never)}`);
    }
  };
}
