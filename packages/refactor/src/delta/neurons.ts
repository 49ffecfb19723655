// The parts of a Read-ME model, experts and what they share, as sets of the dense model's neurons.

import { ReadMeError } from "@readme-moe/core";
import type { FeedForwardRefs, Model } from "@readme-moe/model";
import { matrix, transposed, type Matrix, type Products } from "../linear-algebra/matrix.ts";
import { roundedTo, type BaseWeights } from "./base-model.ts";

/** A part of a layer: an expert by its number, or the part that all tokens use. */
export type PartId = number | "shared";

export interface PartNeurons {
  /** The dense model's neurons, in rising order. */
  readonly neurons: Int32Array;
  /** Place of each of them in the Read-ME model's own order. */
  readonly order: Int32Array;
}

export type LayerParts = ReadonlyMap<PartId, PartNeurons>;

/**
 * Finds the dense neurons of every part. @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` for a part wider than the
 * dense FFN
 */
export async function findNeurons(model: Model, base: BaseWeights, products: Products): Promise<readonly LayerParts[]> {
  const { hiddenSize, intermediateSize } = base.model.config;
  const layers: LayerParts[] = [];
  for (const [layer, { shared, experts }] of model.weights.layers.entries()) {
    const gateOf = async ({ gate: { weight } }: FeedForwardRefs): Promise<Matrix> =>
      matrix(weight.shape[0] ?? 0, hiddenSize, await weight.store.readFloats(weight.name));
    const type = experts[0]?.gate.weight.store.info(experts[0].gate.weight.name).type ?? "F32";
    // A file in half precision holds the dense rows, rounded.
    const values = await base.read(`model.layers.${layer}.mlp.gate_proj.weight`);
    const dense = matrix(intermediateSize, hiddenSize, roundedTo(type, values ?? new Float32Array()));
    const refs: (readonly [PartId, FeedForwardRefs])[] = [...experts.entries()];
    if (shared) refs.push(["shared", shared]);
    const found = new Map<PartId, PartNeurons>();
    for (const [part, ref] of refs) {
      const neurons = await matchNeurons(products, await gateOf(ref), dense);
      if (!neurons) {
        const limit = `the base model's ${intermediateSize} neurons`;
        const message = `${model.path}: layer ${layer} has a part that is wider than ${limit}`;
        throw new ReadMeError("ERR_MODEL_UNSUPPORTED", message);
      }
      const order = Int32Array.from(neurons.keys()).toSorted((a, b) => (neurons[a] ?? 0) - (neurons[b] ?? 0));
      found.set(part, { neurons: neurons.toSorted(), order });
    }
    layers.push(found);
  }
  return layers;
}

/**
 * Finds, for each row of an expert's gate projection, the dense row that is nearest among those not yet taken. Rows
 * with the nearest counterparts choose first, so that unchanged rows get their own. Tuning changes rows far less
 * than they differ from each other.
 *
 * @returns the dense neuron of each row, all different; `undefined` where there are more rows than dense ones
 */
export async function matchNeurons(products: Products, expert: Matrix, dense: Matrix): Promise<Int32Array | undefined> {
  if (expert.rows > dense.rows) return undefined;
  const { data: shares } = await products.multiply(expert, transposed(dense));
  const [own, others] = [squaredLengths(expert), squaredLengths(dense)];
  const isTaken = new Uint8Array(dense.rows);
  const nearest = (row: number): { readonly row: number; readonly neuron: number; readonly square: number } => {
    let [neuron, square] = [0, Infinity];
    for (const [candidate, length] of others.entries()) {
      const distance = (own[row] ?? 0) + length - 2 * (shares[row * dense.rows + candidate] ?? 0);
      if (distance < square && isTaken[candidate] === 0) [neuron, square] = [candidate, distance];
    }
    return { row, neuron, square };
  };
  const result = new Int32Array(expert.rows);
  const first = Array.from(own.keys(), nearest).toSorted((a, b) => a.square - b.square);
  for (const { row, neuron: wanted } of first) {
    const neuron = isTaken[wanted] === 0 ? wanted : nearest(row).neuron;
    isTaken[neuron] = 1;
    result[row] = neuron;
  }
  return result;
}

function squaredLengths({ rows, columns, data }: Matrix): Float64Array {
  return new Float64Array(rows).map((_, row) => {
    let sum = 0;
    for (let at = row * columns; at < (row + 1) * columns; at++) sum += data[at]! ** 2;
    return sum;
  });
}

/** Writes a set of neurons below `count` as bits. */
export function maskOf(neurons: Int32Array, count: number): Uint8Array {
  const bits = new Uint8Array(maskBytes(count));
  for (const neuron of neurons) bits[neuron >> 3] = (bits[neuron >> 3] ?? 0) | (1 << (neuron & 7));
  return bits;
}

/** @returns the neurons in rising order; `undefined` where `bits` do not hold `size` neurons below `count` */
export function neuronsOf(bits: Uint8Array, count: number, size: number): Int32Array | undefined {
  const found: number[] = [];
  for (let at = 0; at < 8 * bits.length; at++) if (((bits[at >> 3] ?? 0) >> (at & 7)) & 1) found.push(at);
  return found.length === size && (found.at(-1) ?? 0) < count ? Int32Array.from(found) : undefined;
}

export function maskBytes(count: number): number {
  return Math.ceil(count / 8);
}
