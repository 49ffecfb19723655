// Bytes that a decode step has to read and operations that it has to compute, by a model's shapes.

import { kvPrecisionOf, weightSizes } from "@readme-moe/engine";
import { kvBytesPerToken } from "@readme-moe/kernel";
import type { FeedForwardRefs, Model, Precision, TensorRef } from "@readme-moe/model";
import type { DecodeCase } from "../decode-steps.ts";

type Source = Pick<Model, "config" | "experts" | "weights" | "router">;

export interface StepCost {
  /** Bytes of the step's experts and of all shared weights, read once. */
  readonly weightBytes: number;
  /** Bytes of the past's keys and values, read once, in their stored precision. */
  readonly kvBytes: number;
  /** Operations of products with weights; a multiplication and an addition are two. */
  readonly productOps: number;
  /** Operations of attention over the past. */
  readonly attentionOps: number;
}

export function stepCost(model: Source, precision: Precision, { numSeqs, past, distinct }: DecodeCase): StepCost {
  const { config, experts, weights } = model;
  const sizes = weightSizes(model, precision);
  const numExperts = experts.names.length;
  // A step reads one row for each token of an embedding table that is not also the head.
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

/** Rates of a machine. */
export interface Peaks {
  readonly readBytesPerMs: number;
  readonly int8OpsPerMs: number;
}

/** Returns the shortest possible time of a step, which reads while it computes: the longer of both. */
export function leastMs(cost: StepCost, peaks: Peaks): { readonly readMs: number; readonly computeMs: number } {
  return {
    readMs: (cost.weightBytes + cost.kvBytes) / peaks.readBytesPerMs,
    computeMs: cost.productOps / peaks.int8OpsPerMs,
  };
}
