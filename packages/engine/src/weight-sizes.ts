// Sizes of a model's weights, computed from the description of its packed file without reading any.

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
  /** 0 if it is the embedding table itself. */
  readonly head: number;
  readonly attention: number;
  /** Norms, and the routers within the layers of a mixture. */
  readonly small: number;
  /** FFN rows that every token uses; all FFN rows of a dense model. */
  readonly shared: number;
  /** All experts together; 0 for dense models. */
  readonly experts: number;
  /** The pre-gating router; 0 without one. */
  readonly router: number;
}

function sizeOf(...tensors: readonly (PackedTensor | undefined)[]): number {
  return tensors.reduce((sum, one) => sum + (one ? one.weightBytes + one.scaleBytes + one.biasBytes : 0), 0);
}

function sizesOf(...ffns: readonly (LayerDescription["shared"] | undefined)[]): number {
  return sizeOf(...ffns.flatMap((ffn) => [ffn?.gate, ffn?.up, ffn?.down]));
}

function smallOf(layer: LayerDescription): readonly (PackedTensor | undefined)[] {
  const outputNorms = [layer.attentionOutputNorm, layer.ffnOutputNorm];
  const norms = [layer.attentionNorm, layer.ffnNorm, layer.queryNorm, layer.keyNorm, ...outputNorms];
  return [...norms, layer.mixture?.router];
}

/** Sums the sizes of the packed file's tensors by part, with padding to whole panels. */
export function weightSizes(model: Source, precision: Precision): WeightSizes {
  const { embedding, head, finalNorm, layers } = describeModel(model, precision, NOT_READ);
  const sumOf = (size: (layer: LayerDescription) => number): number =>
    layers.reduce((sum, layer) => sum + size(layer), 0);
  return {
    embeddings: sizeOf(embedding),
    head: head === embedding ? 0 : sizeOf(head),
    attention: sumOf(({ query, key, value, attentionOutput }) => sizeOf(query, key, value, attentionOutput)),
    small: sizeOf(finalNorm) + sumOf((layer) => sizeOf(...smallOf(layer))),
    shared: sumOf(({ shared }) => sizesOf(shared)),
    experts: sumOf(({ experts = [], mixture }) => sizesOf(...(mixture?.experts ?? experts))),
    router: routerSize(model),
  };
}

/**
 * Describes the units of an expert cache: one layer of one expert each. Models without Read-ME's experts count as one.
 */
export function expertLayout(model: Source, precision: Precision = "int8"): ExpertLayout {
  const description = describeModel(model, precision, NOT_READ);
  if (model.experts.names.length > 1) {
    const { numExperts, layerBytes } = expertUnits(description);
    return { numExperts, layerBytes };
  }
  return {
    numExperts: 1,
    layerBytes: description.layers.map(({ shared, mixture }) => sizesOf(shared, ...(mixture?.experts ?? []))),
  };
}

/**
 * Describes the units of a mixture with a router in every layer: one of its experts in a layer that has some.
 *
 * @throws {TypeError} for other models
 */
export function mixtureLayout(model: Source, precision: Precision = "int8"): ExpertLayout {
  const { numExperts, layerBytes } = expertUnits(describeModel(model, precision, NOT_READ));
  return { numExperts, layerBytes: layerBytes.filter((bytes) => bytes > 0) };
}

/** Sums the sizes of the router's packed tensors, with padding to whole panels. */
function routerSize({ router }: Source): number {
  return router ? sizeOf(...layOut(describeRouter(router)).places.keys()) : 0;
}

// Statistics are needed only to write weights, which does not happen here.
const refuse = (): never => {
  throw new Error("The description is not for writing weights");
};
const NOT_READ: InputStatistics = { inputSquares: refuse };
