// A model of ours as the kernel's description. A family that differs in data only is another mapping of its config.

import {
  eightBitBlocks,
  fittedBlocks,
  storedBlocks,
  type Calibration,
  type LinearRefs,
  type Model,
  type Precision,
} from "@readme-moe/model";
import type { DecoderDescription, LayerDescription } from "./description.ts";
import { packBlocks } from "./pack/pack-blocks.ts";
import { packFloat, packInt8 } from "./pack/pack-product.ts";
import { packNorm, packTable } from "./pack/pack-tables.ts";
import type { PackedTensor } from "./pack/packed-tensor.ts";

/** What a description is made from; a model of one expert without shared rows. */
export type DescribedModel = Pick<Model, "config" | "experts" | "weights">;

/** Whether the kernel runs a model: a single expert, of all FFN rows. */
export function isKernelModel({ experts, weights }: DescribedModel): boolean {
  return experts.names.length === 1 && weights.layers.every(({ shared }) => shared === undefined);
}

/**
 * Describes a dense model in one precision. Nothing is read before the packed file is written.
 *
 * @param calibration - for weights that are fitted to 4 bits; those that a GGUF file has in blocks need none
 * @throws {TypeError} for models of several experts
 */
export function describeModel(
  model: DescribedModel,
  precision: Precision,
  calibration?: Calibration,
): DecoderDescription {
  if (!isKernelModel(model)) throw new TypeError("Expected a dense model");
  const { config, weights } = model;
  const product = (name: string, refs: LinearRefs): PackedTensor => packProduct(name, refs, precision, calibration);
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
    embedding: weights.head === weights.embedding ? head : packTable(weights.embedding, tableFormat),
    layers: weights.layers.map((_, index) => describeLayer(model, index, product)),
    finalNorm: packNorm(weights.finalNorm),
    head,
  };
}

function describeLayer(
  { config, weights }: DescribedModel,
  index: number,
  product: (name: string, refs: LinearRefs) => PackedTensor,
): LayerDescription {
  const { inputNorm, attention, postAttentionNorm, experts } = weights.layers[index] as (typeof weights.layers)[number];
  const [{ gate, up, down }] = experts as [(typeof experts)[number]];
  const { numHeads, numKvHeads, headSize } = config;
  const name = `layers.${index}`;
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
    attentionNorm: packNorm(inputNorm),
    query: product(`${name}.attention.qkv`, attention.query),
    key: product(`${name}.attention.qkv`, attention.key),
    value: product(`${name}.attention.qkv`, attention.value),
    queryNorm: attention.queryNorm && packNorm(attention.queryNorm),
    keyNorm: attention.keyNorm && packNorm(attention.keyNorm),
    attentionOutput: product(`${name}.attention.output`, attention.output),
    attentionOutputNorm: undefined,
    ffnNorm: packNorm(postAttentionNorm),
    gate: product(`${name}.ffn.gate_up`, gate),
    up: product(`${name}.ffn.gate_up`, up),
    down: product(`${name}.ffn.down`, down),
    ffnOutputNorm: undefined,
  };
}

function packProduct(
  name: string,
  refs: LinearRefs,
  precision: Precision,
  calibration: Calibration | undefined,
): PackedTensor {
  if (precision === "fp32") return packFloat(refs);
  if (precision === "int8") return packInt8(refs);
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
