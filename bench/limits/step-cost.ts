// What a decode step has to read and to compute, from a model's shapes: what no program can do without.

import { kvPrecisionOf, weightSizes } from "@readme-moe/engine";
import { kvBytesPerToken } from "@readme-moe/kernel";
import type { FeedForwardRefs, Model, Precision, TensorRef } from "@readme-moe/model";
import type { DecodeCase } from "../decode-steps.ts";

type Source = Pick<Model, "config" | "experts" | "weights" | "router">;

export interface StepCost {
  /** Weights of the step's experts and of everything that all tokens share, once. */
  readonly weightBytes: number;
  /** Keys and values of the past, once, in the precision that they are kept in. */
  readonly kvBytes: number;
  /** Of products with weights: a multiplication and an addition are two. */
  readonly productOps: number;
  /** Of attention over the past. */
  readonly attentionOps: number;
}

export function stepCost(model: Source, precision: Precision, { numSeqs, past, distinct }: DecodeCase): StepCost {
  const { config, experts, weights } = model;
  const sizes = weightSizes(model, precision);
  const numExperts = experts.names.length;
  // Of an embedding table that is no head, a step reads a row for each token.
  const head = sizes.head > 0 ? sizes.head : sizes.embeddings;
  const active = (sizes.experts * Math.min(distinct, numSeqs, numExperts)) / numExperts;
  const perToken = weights.layers.reduce((sum, layer) => {
    const { query, key, value, output } = layer.attention;
    const attention = [query, key, value, output].reduce((total, { weight }) => total + sizeOf(weight), 0);
    const [expert] = layer.experts;
    return sum + attention + ffnSize(layer.shared) + ffnSize(expert);
  }, sizeOf(weights.head));
  const { numLayers, numHeads, headSize } = config;
  return {
    weightBytes: sizes.attention + sizes.small + sizes.shared + head + active,
    kvBytes: numSeqs * past * kvBytesPerToken(config, kvPrecisionOf(precision)),
    productOps: 2 * numSeqs * perToken,
    attentionOps: 2 * 2 * numSeqs * past * numLayers * numHeads * headSize,
  };
}

function ffnSize(refs: FeedForwardRefs | undefined): number {
  return refs ? [refs.gate, refs.up, refs.down].reduce((sum, { weight }) => sum + sizeOf(weight), 0) : 0;
}

function sizeOf({ shape }: TensorRef): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** What a machine can do at best. */
export interface Peaks {
  readonly readBytesPerMs: number;
  readonly int8OpsPerMs: number;
}

/** The shortest that a step can take: it reads while it computes, and whichever takes longer counts. */
export function leastMs(cost: StepCost, peaks: Peaks): { readonly readMs: number; readonly computeMs: number } {
  return {
    readMs: (cost.weightBytes + cost.kvBytes) / peaks.readBytesPerMs,
    computeMs: cost.productOps / peaks.int8OpsPerMs,
  };
}
