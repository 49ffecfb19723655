// Sizes of a model's weights, computed from the description of its packed file; nothing is read.

import type { ExpertLayout } from "@readme-moe/core";
import type { InputStatistics, Model, Precision } from "@readme-moe/model";
import {
  describeModel,
  describeRouter,
  expertUnits,
  layOut,
  type LayerDescription,
  type PackedTensor,
} from "@readme-moe/kernel";

type Source = Pick<Model, "config" | "experts" | "weights" | "router">;

/** Bytes by part. */
export interface WeightSizes {
  readonly embeddings: number;
  /** 0 where it is the embedding table itself. */
  readonly head: number;
  readonly attention: number;
  /** Tables of rotary positions, norms and other small things. */
  readonly small: number;
  /** FFN rows that every token uses; of a dense model, its whole FFN. */
  readonly shared: number;
  /** Of all experts; 0 for dense models. */
  readonly experts: number;
  /** Of the pre-gating router. */
  readonly router: number;
}

function sizeOf(...tensors: readonly (PackedTensor | undefined)[]): number {
  return tensors.reduce((sum, one) => sum + (one ? one.weightBytes + one.scaleBytes + one.biasBytes : 0), 0);
}

function normsOf(layer: LayerDescription): readonly (PackedTensor | undefined)[] {
  const outputNorms = [layer.attentionOutputNorm, layer.ffnOutputNorm];
  return [layer.attentionNorm, layer.ffnNorm, layer.queryNorm, layer.keyNorm, ...outputNorms];
}

/** Sizes of the packed file's tensors, whole panels included. */
export function weightSizes(model: Source, precision: Precision): WeightSizes {
  const { embedding, head, finalNorm, layers } = describeModel(model, precision, NOT_READ);
  const sumOf = (size: (layer: LayerDescription) => number): number =>
    layers.reduce((sum, layer) => sum + size(layer), 0);
  return {
    embeddings: sizeOf(embedding),
    head: head === embedding ? 0 : sizeOf(head),
    attention: sumOf(({ query, key, value, attentionOutput }) => sizeOf(query, key, value, attentionOutput)),
    small: sizeOf(finalNorm) + sumOf((layer) => sizeOf(...normsOf(layer))),
    shared: sumOf(({ shared }) => sizeOf(shared?.gate, shared?.up, shared?.down)),
    experts: sumOf(({ experts = [] }) => sizeOf(...experts.flatMap(({ gate, up, down }) => [gate, up, down]))),
    router: routerSize(model),
  };
}

/** Layers of experts: the units that an expert cache keeps, reads and evicts. A dense model is one expert. */
export function expertLayout(model: Source, precision: Precision = "int8"): ExpertLayout {
  const description = describeModel(model, precision, NOT_READ);
  if (model.experts.names.length > 1) {
    const { numExperts, layerBytes } = expertUnits(description);
    return { numExperts, layerBytes };
  }
  return {
    numExperts: 1,
    layerBytes: description.layers.map(({ shared }) => sizeOf(shared?.gate, shared?.up, shared?.down)),
  };
}

/** Size of the router's packed tensors, whole panels included. */
function routerSize({ router }: Source): number {
  return router ? sizeOf(...layOut(describeRouter(router)).places.keys()) : 0;
}

// Weights are fitted when a file is written, which these are not.
const refuse = (): never => {
  throw new Error("The description is only looked at");
};
const NOT_READ: InputStatistics = { inputSquares: refuse };
