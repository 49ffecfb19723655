// Sizes of keys and values, and of a model's weights, computed from descriptions without reading any file.

import {
  describeModel,
  describeRouter,
  expertUnits,
  KV_BLOCK_TOKENS,
  kvBytesPerToken,
  type KvPrecision,
  type LayerDescription,
  layOut,
  type PackedTensor,
  wholeBlocks,
} from "@readme-moe/kernel";
import type { InputStatistics, Model, ModelConfig, Precision } from "@readme-moe/model";
import { type ExpertLayout, integerOption } from "@readme-moe/core";
import type { ResolvedEngineOptions } from "./engine-options.ts";

/**
 * Resolves the number type of keys and values: the given one, else float32 with float32 weights, else half precision.
 */
export function kvPrecisionOf(precision: Precision = "fp32", asked?: KvPrecision): KvPrecision {
  return asked ?? (precision === "fp32" ? "fp32" : "fp16");
}

/** Sizes of the KV memory for a model's shape. */
export interface KvSizes {
  readonly capacityTokens: number;
  readonly prefixCacheBytes: number;
  /** Largest number of tokens of one sequence. */
  readonly contextTokens: number;
}

/**
 * Computes the sizes of a model's KV memory. The system provides memory when it is first written, so a large capacity
 * costs nothing until sequences fill it.
 *
 * @param kvPrecision - precision of the memory; fp16 holds twice as many tokens as fp32
 * @throws {RangeError} if `kvCacheBytes` does not hold 64 tokens, or `contextTokens` is more than the model's
 */
export function kvSizes(
  options: ResolvedEngineOptions,
  config: ModelConfig,
  kvPrecision: KvPrecision = "fp32",
): KvSizes {
  const bytesPerToken = kvBytesPerToken(config, kvPrecision);
  const wantedTokens = options.contextTokens ?? config.contextTokens;
  const contextTokens = integerOption("contextTokens", wantedTokens, 1, config.contextTokens);
  const most = options.maxNumSeqs * wholeBlocks(contextTokens);
  const fallback = Math.min(most, Math.max((512 << 20) / bytesPerToken, Math.min(contextTokens, 4096)));
  const wanted = options.kvCacheBytes === undefined ? fallback : Math.min(most, options.kvCacheBytes / bytesPerToken);
  const capacityTokens = Math.floor(wanted / KV_BLOCK_TOKENS) * KV_BLOCK_TOKENS;
  if (capacityTokens === 0) {
    const least = KV_BLOCK_TOKENS * bytesPerToken;
    throw new RangeError(`Expected \`kvCacheBytes\` to be at least ${least}, got \`${options.kvCacheBytes}\``);
  }
  return {
    capacityTokens,
    prefixCacheBytes: options.prefixCacheBytes ?? Math.floor((capacityTokens * bytesPerToken) / 4),
    contextTokens: Math.min(contextTokens, capacityTokens),
  };
}

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
    router: model.router ? sizeOf(...layOut(describeRouter(model.router)).places.keys()) : 0,
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

// Statistics are needed only to write weights, which does not happen here.
const refuse = (): never => {
  throw new Error("The description is not for writing weights");
};
const NOT_READ: InputStatistics = { inputSquares: refuse };
