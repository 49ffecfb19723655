// What a model's weights take in memory, from the graphs that hold them; nothing is read.

import { expertBytes, type ExpertLayout } from "@readme-moe/core";
import type { Calibration, Graph, Model, Precision } from "@readme-moe/model";
import { describeModel, isKernelModel, type LayerDescription, type PackedTensor } from "@readme-moe/kernel";
import { routerGraph } from "@readme-moe/router";
import { decoderGraph } from "./decoder-graph.ts";
import { planExpert } from "./streamed/expert-file.ts";

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

/** @param isStreamed - with experts that come and go (int8): `experts` are those in the file that they are read from */
export function weightSizes(model: Source, precision: Precision, isStreamed = false): WeightSizes {
  if (isKernelModel(model)) return kernelWeightSizes(model, precision);
  const isDense = model.experts.names.length === 1;
  const sizes = { embeddings: 0, head: 0, attention: 0, small: 0, shared: 0, experts: 0, router: 0 };
  for (const { name, byteLength } of decoderGraph(model, { precision, calibration: NOT_READ }).constants) {
    sizes[partOf(name, isDense)] += byteLength;
  }
  if (isStreamed) sizes.experts = expertBytes(expertLayout(model)) * model.experts.names.length;
  if (model.router) sizes.router = totalOf(routerGraph(model.router));
  return sizes;
}

function sizeOf(...tensors: readonly (PackedTensor | undefined)[]): number {
  return tensors.reduce((sum, one) => sum + (one ? one.weightBytes + one.scaleBytes + one.biasBytes : 0), 0);
}

/** Sizes of the packed file's tensors, whole panels included. */
function kernelWeightSizes(model: Source, precision: Precision): WeightSizes {
  const { embedding, head, finalNorm, layers } = describeModel(model, precision, NOT_READ);
  const sumOf = (size: (layer: LayerDescription) => number): number =>
    layers.reduce((sum, layer) => sum + size(layer), 0);
  return {
    embeddings: sizeOf(embedding),
    head: head === embedding ? 0 : sizeOf(head),
    attention: sumOf(({ query, key, value, attentionOutput }) => sizeOf(query, key, value, attentionOutput)),
    small:
      sizeOf(finalNorm) + sumOf((layer) => sizeOf(layer.attentionNorm, layer.ffnNorm, layer.queryNorm, layer.keyNorm)),
    shared: sumOf(({ shared }) => sizeOf(shared?.gate, shared?.up, shared?.down)),
    experts: sumOf(({ experts = [] }) => sizeOf(...experts.flatMap(({ gate, up, down }) => [gate, up, down]))),
    router: model.router ? totalOf(routerGraph(model.router)) : 0,
  };
}

/** Layers of experts in int8: the smallest units that an expert cache keeps, reads and evicts. */
export function expertLayout(model: Source): ExpertLayout {
  const layerBytes = planExpert(model, { precision: "int8", calibration: NOT_READ }).map(({ bytes }) => bytes);
  return { numExperts: model.experts.names.length, layerBytes };
}

function partOf(name: string, isDense: boolean): Exclude<keyof WeightSizes, "router"> {
  if (name.startsWith("embedding")) return "embeddings";
  if (/^head\b/.test(name)) return "head";
  if (/^layers\.\d+\.attention\b/.test(name)) return "attention";
  if (!/^layers\.\d+\.ffn\b/.test(name)) return "small";
  return isDense || name.includes(".ffn.shared") ? "shared" : "experts";
}

function totalOf({ constants }: Graph): number {
  return constants.reduce((sum, { byteLength }) => sum + byteLength, 0);
}

// Weights are fitted when a graph is written, which these are not.
const refuse = (): never => {
  throw new Error("The graph is only looked at");
};
const NOT_READ: Calibration = { inputMax: refuse, inputSquares: refuse };
