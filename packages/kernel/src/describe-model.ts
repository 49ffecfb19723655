// A model of ours as the kernel's description. A family that differs in data only is another mapping of its config.

import {
  eightBitBlocks,
  fittedBlocks,
  storedBlocks,
  type FeedForwardRefs,
  type InputStatistics,
  type LinearRefs,
  type Model,
  type Precision,
} from "@readme-moe/model";
import type { DecoderDescription, ExpertDescription, LayerDescription } from "./description.ts";
import { packBlocks } from "./pack/pack-blocks.ts";
import { inputFactors, type InputFactors } from "./pack/input-factors.ts";
import { packFloat, packInt8, type ProductFactors } from "./pack/pack-product.ts";
import { packNorm, packTable } from "./pack/pack-tables.ts";
import type { PackedTensor } from "./pack/packed-tensor.ts";

/** What a description is made from. */
export type DescribedModel = Pick<Model, "config" | "experts" | "weights">;

type PackProduct = (name: string, refs: LinearRefs, factors: ProductFactors) => PackedTensor;

/** How a model's products are packed, and what their inputs are multiplied by before. */
interface Packing {
  readonly product: PackProduct;
  /** @returns `undefined` where nothing is */
  readonly factorsOf: (product: string) => InputFactors | undefined;
}

/**
 * Describes a model in one precision. Nothing is read before the packed file is written.
 *
 * @param calibration - for int8, which is rounded as it is without; for weights that are fitted to 4 bits, which have 8 without
 */
export function describeModel(
  model: DescribedModel,
  precision: Precision,
  calibration?: InputStatistics,
): DecoderDescription {
  const { config, weights } = model;
  const packing: Packing = {
    product: (name, refs, factors) =>
      precision === "int8" ? packInt8(refs, factors) : packProduct(name, refs, precision, calibration),
    factorsOf: (name) => (precision === "int8" && calibration ? inputFactors(calibration, name) : undefined),
  };
  const tableFormat = precision === "fp32" ? "float-table" : "half-table";
  // A tied table is there once: an embedding read from rows of 8 bits costs a ten-thousandth of a nat.
  const head = packHead({ weight: weights.head, bias: undefined }, precision);
  return {
    vocabSize: config.vocabSize,
    hiddenSize: config.hiddenSize,
    normEpsilon: config.rmsNormEpsilon,
    embeddingScale: 1,
    logitScale: 1,
    numRotaries: 1,
    numExperts: model.experts.names.length,
    embedding: weights.head === weights.embedding ? head : packTable(weights.embedding, tableFormat),
    layers: weights.layers.map((_, index) => describeLayer(model, index, packing)),
    finalNorm: packNorm(weights.finalNorm),
    head,
  };
}

function describeLayer(
  { config, weights, experts: { names } }: DescribedModel,
  index: number,
  packing: Packing,
): LayerDescription {
  const { inputNorm, attention, postAttentionNorm, shared, experts } = weights.layers[
    index
  ] as (typeof weights.layers)[number];
  const { product, factorsOf } = packing;
  const { numHeads, numKvHeads, headSize } = config;
  const name = `layers.${index}`;
  const attends = factorsOf(`${name}.attention.qkv`);
  const feeds = factorsOf(`${name}.ffn`);
  // A dense model's only expert is what all tokens use.
  const isDense = names.length === 1 && shared === undefined;
  const ofAll = isDense ? experts[0] : shared;
  const feedForward = (part: string, refs: FeedForwardRefs): ExpertDescription => {
    const gated = factorsOf(`${part}.down`);
    return {
      gate: product(part, refs.gate, { inputs: feeds }),
      up: product(part, refs.up, { inputs: feeds, outputs: gated }),
      down: product(`${part}.down`, refs.down, { inputs: gated }),
    };
  };
  return {
    numHeads,
    numKvHeads,
    headSize,
    rotary: 0,
    rotarySize: headSize,
    slidingWindow: config.slidingWindows[index],
    attentionScale: 1 / Math.sqrt(headSize),
    residualScale: 1,
    activation: "silu",
    attentionNorm: packNorm(inputNorm, 0, attends),
    query: product(`${name}.attention.qkv`, attention.query, { inputs: attends }),
    key: product(`${name}.attention.qkv`, attention.key, { inputs: attends }),
    value: product(`${name}.attention.qkv`, attention.value, { inputs: attends }),
    queryNorm: attention.queryNorm && packNorm(attention.queryNorm),
    keyNorm: attention.keyNorm && packNorm(attention.keyNorm),
    attentionOutput: product(`${name}.attention.output`, attention.output, {}),
    attentionOutputNorm: undefined,
    ffnNorm: packNorm(postAttentionNorm, 0, feeds),
    shared: ofAll && feedForward(`${name}.ffn`, ofAll),
    experts: isDense ? [] : experts.map((refs, expert) => feedForward(`${name}.ffn.${expert}`, refs)),
    ffnOutputNorm: undefined,
  };
}

function packProduct(
  name: string,
  refs: LinearRefs,
  precision: Exclude<Precision, "int8">,
  calibration: InputStatistics | undefined,
): PackedTensor {
  if (precision === "fp32") return packFloat(refs);
  const blocks =
    storedBlocks(refs.weight) ??
    (calibration && fittedBlocks(refs.weight, calibration, name)) ??
    eightBitBlocks(refs.weight);
  return blocks ? packBlocks(blocks, refs.bias) : packInt8(refs);
}

/** The head keeps 8 bits where products of layers have 4: it is read once a step and decides on tokens. */
function packHead(refs: LinearRefs, precision: Precision): PackedTensor {
  const blocks = precision === "int4" ? (storedBlocks(refs.weight) ?? eightBitBlocks(refs.weight)) : undefined;
  if (blocks) return packBlocks(blocks, undefined);
  return precision === "fp32" ? packFloat(refs) : packInt8(refs);
}
