// The dense base model of a delta file: its tensors, and how it is recognised whatever file they came in.

import { createHash } from "node:crypto";
import {
  decodeFloats,
  encodeFloats,
  isStoredFloat,
  readMeTensors,
  type Model,
  type SafetensorsInput,
} from "@readme-moe/model";
import { pickRows } from "../linear-algebra/matrix.ts";

// Every expert asks for the same FFN tensors. Those of a small model fit; tensors of a large one are read again.
const MAX_KEPT_BYTES = 512 << 20;

/** The tensors of a dense model, as what a Read-ME folder's tensors are compared with. */
export class BaseWeights {
  readonly model: Model;
  readonly tensors: readonly SafetensorsInput[];
  readonly #byName: ReadonlyMap<string, SafetensorsInput>;
  readonly #kept = new Map<string, Float32Array>();
  #keptBytes = 0;

  constructor(model: Model) {
    const { backbone, experts } = readMeTensors(model.weights, undefined);
    this.model = model;
    this.tensors = [...backbone, ...(experts[0] ?? [])];
    this.#byName = new Map(this.tensors.map((tensor) => [tensor.name, tensor]));
  }

  /** Reads a whole tensor, which is shared and not to be written to. @returns `undefined` where there is none */
  async read(name: string): Promise<Float32Array | undefined> {
    const kept = this.#kept.get(name);
    if (kept) return kept;
    const tensor = this.#byName.get(name);
    const values = tensor && (await floatsOf(tensor));
    if (values && name.includes(".mlp.") && this.#keptBytes + values.byteLength <= MAX_KEPT_BYTES) {
      this.#kept.set(name, values);
      this.#keptBytes += values.byteLength;
    }
    return values;
  }

  /**
   * Reads the values that the dense model has in place of a Read-ME model's tensor.
   *
   * @param neurons - those of the tensor's part, for tensors of an FFN
   * @returns `undefined` where the dense model has none
   */
  async inPlaceOf(name: string, neurons: Int32Array | undefined): Promise<Float32Array | undefined> {
    const values = await this.read(name);
    const shape = this.#byName.get(name)?.shape ?? [];
    return values && neurons ? pickNeurons(name, shape, values, neurons) : values;
  }
}

/** Picks neurons, in the order in which they are named, out of a tensor of an FFN. */
export function pickNeurons(
  name: string,
  [rows = 1, columns = 1]: readonly number[],
  values: Float32Array,
  neurons: Int32Array,
): Float32Array {
  if (name.endsWith("down_proj.bias")) return values;
  if (!name.endsWith("down_proj.weight")) return pickRows(values, neurons, columns);
  const picked = new Float32Array(rows * neurons.length);
  for (let row = 0, at = 0; row < rows; row++) {
    for (const neuron of neurons) picked[at++] = values[row * columns + neuron] ?? 0;
  }
  return picked;
}

/** Reads the layer of an FFN's tensor off its name; `undefined` for other tensors. */
export function ffnLayerOf(name: string): number | undefined {
  const layer = /^model\.layers\.(\d+)\.mlp\./.exec(name)?.[1];
  return layer === undefined ? undefined : Number(layer);
}

/** @throws {TypeError} for a tensor that does not hold floats */
export async function floatsOf({ name, type, bytes }: SafetensorsInput): Promise<Float32Array> {
  if (!isStoredFloat(type)) throw new TypeError(`Expected ${name} to hold floats, got ${type}`);
  return decodeFloats(await bytes(), type);
}

/** Rounds values as a tensor of this type would. */
export function roundedTo(type: string, values: Float32Array): Float32Array {
  return isStoredFloat(type) && type !== "F32" ? decodeFloats(encodeFloats(values, type), type) : values;
}

const SAMPLES = 32;
// Four-bit weights are off by a tenth of their size, two-bit weights by a third, unrelated weights by 1.4 times it.
const MAX_RELATIVE_DIFFERENCE = 0.5;

/** Identity of a dense model. */
export interface BasePrint {
  /** Hash of all tensors as float32 under their names, in hexadecimal. */
  readonly sha256: string;
  /** Evenly spaced values of each tensor, followed by zeros where it has fewer; `[tensors, SAMPLES]`. */
  readonly samples: Float32Array;
}

/** Reads all tensors of the model. */
export async function basePrint(base: BaseWeights): Promise<BasePrint> {
  const hash = createHash("sha256");
  const samples = new Float32Array(base.tensors.length * SAMPLES);
  for (const [index, { name, shape }] of base.tensors.entries()) {
    const values = (await base.read(name)) ?? new Float32Array();
    hash.update(`${JSON.stringify([name, shape])}\n`);
    hash.update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    const count = Math.min(SAMPLES, values.length);
    for (let i = 0; i < count; i++) {
      samples[index * SAMPLES + i] = values[Math.floor(((i + 0.5) * values.length) / count)] ?? 0;
    }
  }
  return { sha256: hash.digest("hex"), samples };
}

/** Relation of a dense model to the one that a delta file was made for. */
export type BaseMatch =
  | { readonly kind: "same" }
  /** The same weights in another precision. */
  | { readonly kind: "near"; readonly relativeDifference: number; readonly numDifferent: number }
  | { readonly kind: "other"; readonly relativeDifference: number };

/** Compares two dense models; models with different tensors are `other`. */
export function compareBases(made: BasePrint, found: BasePrint): BaseMatch {
  if (made.sha256 === found.sha256) return { kind: "same" };
  if (made.samples.length !== found.samples.length) return { kind: "other", relativeDifference: Infinity };
  const differences: number[] = [];
  for (let from = 0; from < made.samples.length; from += SAMPLES) {
    let [square, difference] = [0, 0];
    for (const [index, value] of made.samples.subarray(from, from + SAMPLES).entries()) {
      square += value ** 2;
      difference += ((found.samples[from + index] ?? 0) - value) ** 2;
    }
    differences.push(difference === 0 ? 0 : difference / square);
  }
  const relativeDifference = Math.sqrt(differences.reduce((sum, one) => sum + one, 0) / differences.length);
  // The condition is not written with `>`, so that NaN is no match.
  if (!(relativeDifference <= MAX_RELATIVE_DIFFERENCE)) return { kind: "other", relativeDifference };
  return { kind: "near", relativeDifference, numDifferent: differences.filter((one) => one > 0).length };
}
