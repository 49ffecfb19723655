import { ROUTER_RMS_NORM_EPSILON, type RouterWeights } from "@readme-moe/model";
import type { DecoderDescription, LayerDescription } from "./description.ts";
import { packFloat } from "./pack/pack-product.ts";
import { packNorm, packTable } from "./pack/pack-tables.ts";

/**
 * Describes a pre-gating router in float32: a decoder with biases and without gates, with one logit per expert. Nothing
 * is read before the packed file is written.
 */
export function describeRouter({ config, embedding, layers, finalNorm, head }: RouterWeights): DecoderDescription {
  return {
    vocabSize: config.vocabSize,
    numLogits: config.numExperts,
    hiddenSize: config.embeddingSize,
    normEpsilon: ROUTER_RMS_NORM_EPSILON,
    embeddingScale: 1,
    logitScale: 1,
    embedding: packTable(embedding, "float-table"),
    layers: layers.map((layer) => describeLayer(config, layer)),
    finalNorm: packNorm(finalNorm),
    head: packFloat(head),
  };
}

function describeLayer(
  { innerSize, numHeads, normalizer }: RouterWeights["config"],
  refs: RouterWeights["layers"][number],
): LayerDescription {
  const headSize = innerSize / numHeads;
  return {
    numHeads,
    numKvHeads: numHeads,
    headSize,
    angleSet: 0,
    rotatedSize: headSize,
    slidingWindow: undefined,
    attentionScale: 1 / normalizer,
    residualScale: 1,
    activation: "silu",
    attentionNorm: packNorm(refs.inputNorm),
    query: packFloat(refs.query),
    key: packFloat(refs.key),
    value: packFloat(refs.value),
    queryNorm: undefined,
    keyNorm: undefined,
    attentionOutput: packFloat(refs.output),
    attentionOutputNorm: undefined,
    ffnNorm: packNorm(refs.postAttentionNorm),
    shared: { gate: undefined, up: packFloat(refs.expand), down: packFloat(refs.contract) },
    ffnOutputNorm: undefined,
  };
}
