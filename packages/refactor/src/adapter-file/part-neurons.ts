// The parts of a Read-ME model, experts and what they share, as sets of the dense model's neurons.

import { ReadMeError } from "@readme-moe/core";
import type { FeedForwardRefs, Model } from "@readme-moe/model";
import type { BaseWeights } from "./base-weights.ts";
import { rounded } from "./tensor-bytes.ts";
import { matchNeurons, neuronIndex } from "./match-neurons.ts";

/** Which part a tensor is of: an expert, or what all tokens use. */
export type PartId = number | "shared";

/** One part of one layer. */
export interface PartNeurons {
  /** Rising. */
  readonly neurons: Int32Array;
  /** Where each of them is in the model's own order. */
  readonly order: Int32Array;
}

/** Parts of each layer. */
export type LayerParts = ReadonlyMap<PartId, PartNeurons>;

/** @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` for a part that is wider than the dense model */
export async function findNeurons(model: Model, base: BaseWeights): Promise<readonly LayerParts[]> {
  const { hiddenSize, intermediateSize } = base.model.config;
  const layers: LayerParts[] = [];
  for (const [layer, { shared, experts }] of model.weights.layers.entries()) {
    const [{ gate }] = experts as [FeedForwardRefs];
    const { type } = gate.weight.store.info(gate.weight.name);
    // Rows of a file that holds half precision are the dense ones, rounded.
    const read = async (kind: string): Promise<Float32Array> =>
      rounded((await base.read(`model.layers.${layer}.mlp.${kind}_proj.weight`)) as Float32Array, type);
    const dense = { count: intermediateSize, gate: await read("gate"), up: await read("up") };
    const index = neuronIndex(dense, hiddenSize);
    const parts: (readonly [PartId, FeedForwardRefs])[] = experts.map((expert, at) => [at, expert]);
    if (shared) parts.push(["shared", shared]);
    const found = new Map<PartId, PartNeurons>();
    for (const [part, refs] of parts) {
      const neurons = matchNeurons(await neuronsOfPart(refs), index);
      if (!neurons) {
        const message = `${model.path}: layer ${layer} has a part that is wider than the base model's ${intermediateSize} neurons`;
        throw new ReadMeError("ERR_MODEL_UNSUPPORTED", message);
      }
      const order = Int32Array.from(neurons.keys()).toSorted((a, b) => (neurons[a] as number) - (neurons[b] as number));
      found.set(part, { neurons: neurons.toSorted(), order });
    }
    layers.push(found);
  }
  return layers;
}

async function neuronsOfPart({ gate, up }: FeedForwardRefs): Promise<{
  readonly count: number;
  readonly gate: Float32Array;
  readonly up: Float32Array;
}> {
  return {
    count: gate.weight.shape[0] as number,
    gate: await gate.weight.store.readFloats(gate.weight.name),
    up: await up.weight.store.readFloats(up.weight.name),
  };
}
