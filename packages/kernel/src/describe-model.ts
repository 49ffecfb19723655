// Maps a model's config and tensors to the kernel's description.

import {
  computedTensor,
  type DraftHead,
  eightBitBlocks,
  type FeedForwardRefs,
  fittedBlocks,
  type InputStatistics,
  layerConfig,
  layerHeads,
  type LinearRefs,
  type MixtureConfig,
  type MixtureRefs,
  type Model,
  numOutputsOf,
  type Precision,
  type RecurrenceRefs,
  rotatedBy,
  ROUTER_RMS_NORM_EPSILON,
  type RouterWeights,
  storedBlocks,
  type TensorRef,
} from "@readme-moe/model";
import { layerFactors, type LayerFactors } from "./pack/pack-lora.ts";
import { describeEncoder } from "./describe-encoder.ts";
import type { DecoderDescription, ExpertDescription, LayerDescription } from "./description.ts";
import {
  fileTypeOf,
  type InputFactors,
  packBlocks,
  packFile,
  packFloat,
  packInt8,
  type ProductFactors,
} from "./pack/pack-product.ts";
import { packConvolution, packNorm, packRates, packTable } from "./pack/pack-tables.ts";
import { isBlockType, type PackedTensor } from "./pack/block-types.ts";

/** Parts of a model that a description is made from. */
export type DescribedModel = Pick<Model, "config" | "experts" | "weights">;

/** Parts of a model that a layer's description is made from. */
type DescribedLayers = Pick<DescribedModel, "config"> & {
  readonly experts: Pick<DescribedModel["experts"], "names">;
  readonly weights: Pick<DescribedModel["weights"], "layers">;
};

/** @param name - of the product's inputs in a calibration; empty for those that it does not measure */
type PackProduct = (name: string, refs: LinearRefs, factors: ProductFactors) => PackedTensor;

interface Packing {
  readonly product: PackProduct;
  /** Finds the factors that the inputs of a layer's products come multiplied by. */
  readonly factorsOf: (layer: number) => LayerFactors;
}

/** Resolves the precision of products: the given one, else "file" where a layer has blocks, else "int8". */
export function precisionOf({ weights }: Pick<DescribedModel, "weights">, asked?: Precision): Precision {
  return asked ?? (weights.layers.some(hasBlocks) ? "file" : "int8");
}

function hasBlocks({
  attention,
  shared,
  plain,
  experts,
  mixture,
}: DescribedModel["weights"]["layers"][number]): boolean {
  const { query, key, value, output, gate: outputGate, latent } = attention;
  const ffns = [...(shared ? [shared] : []), ...experts, ...(mixture?.experts ?? [])];
  const products = [
    query,
    output,
    key,
    value,
    ...(outputGate ? [outputGate] : []),
    ...(latent?.outputs ?? []),
    ...(plain ? [plain.up, plain.down] : []),
    ...ffns.flatMap(({ gate, up, down }) => [gate, up, down]),
  ];
  return products.some(({ weight }) => isBlockType(fileTypeOf(weight) ?? ""));
}

/**
 * Describes a model in one precision. Nothing is read before the packed file is written.
 *
 * @param precision - "file" takes the bits of the file: its blocks, and F16 and BF16; float32 for other types
 * @param calibration - without it, int8 rounds weights unchanged, and int4 keeps 8 bits where it would fit weights to 4
 */
export function describeModel(
  model: DescribedModel,
  precision: Precision,
  calibration?: InputStatistics,
): DecoderDescription {
  const { config, weights } = model;
  // Products of encoders are rounded in blocks of 32, never fitted: errors of whole rows show in embeddings.
  const ofModel = config.encoder ? undefined : calibration;
  const statistics = config.mixture && ofModel ? withFewTokens(ofModel) : ofModel;
  const rounding = config.encoder && precision === "int8" ? "int4" : precision;
  const product: PackProduct = (name, refs, factors) =>
    rounding === "int8" ? packInt8(refs, factors) : packProduct(name, refs, rounding, name ? statistics : undefined);
  if (weights.encoder) return describeEncoder(model, precision, (refs) => product("", refs, {}));
  const packing: Packing = {
    product,
    factorsOf: (layer) => layerFactors(weights, layer, precision, statistics),
  };
  const head = headOf(model, precision);
  const isTied = weights.head === weights.embedding && !config.pooling;
  return {
    vocabSize: config.vocabSize,
    numLogits: numOutputsOf(config),
    hiddenSize: config.hiddenSize,
    normEpsilon: config.rmsNormEpsilon,
    embeddingScale: config.embeddingScale,
    // The hidden state itself has no such factor.
    logitScale: config.pooling?.kind === "embedding" ? 1 : config.logitScale,
    caps: config.caps && { scores: config.caps.scores, logits: config.pooling ? undefined : config.caps.logits },
    numExperts: model.experts.names.length,
    // A tied table is packed once: an embedding read from rows of 8 bits costs 0.0001 nats.
    embedding: (isTied && head) || embeddingOf(weights.embedding, precision),
    layers: weights.layers.map((_, index) => describeLayer(model, index, packing)),
    finalNorm: packNorm(weights.finalNorm, config.normOffset),
    head,
    encoder: config.encoder && { positions: undefined, segments: undefined, distances: undefined },
    layerInputs: describeLayerInputs(model, precision, product),
  };
}

function describeLayer(
  { config, weights, experts: { names } }: DescribedLayers,
  index: number,
  packing: Packing,
): LayerDescription {
  const refs = weights.layers[index]!;
  const { attentionNorm, attention, ffnNorm, shared, experts, mixture } = refs;
  const { product, factorsOf } = packing;
  const { normOffset } = config;
  const { slidingWindow, angleSet, keysOf } = layerConfig(config, index);
  const optionalNorm = (ref: TensorRef | undefined, factors?: InputFactors): PackedTensor | undefined =>
    ref && packNorm(ref, normOffset, factors);
  const name = `layers.${index}`;
  const hasKeys = keysOf === undefined;
  const qkv = (linear: LinearRefs): PackedTensor => product(`${name}.attention.qkv`, linear, { inputs: attends });
  const { attends, feeds, gated: gatedOf } = factorsOf(index);
  const key = hasKeys ? qkv(attention.key) : undefined;
  const value = hasKeys && attention.value !== attention.key ? qkv(attention.value) : key;
  // All tokens use a dense model's only expert.
  const isDense = names.length === 1 && shared === undefined && mixture === undefined;
  const ofAll = isDense ? experts[0] : shared;
  const feedForward = (part: string, { gate, up, down }: FeedForwardRefs): ExpertDescription => {
    const gated = gatedOf(part);
    return {
      gate: product(part, gate, { inputs: feeds }),
      up: product(part, up, { inputs: feeds, outputs: gated }),
      down: product(`${part}.down`, down, { inputs: gated }),
    };
  };
  return {
    ...headsOf(config, index),
    angleSet,
    queryAngleSet: angleSet === undefined || !config.queryGrowth ? undefined : config.ropes.length + angleSet,
    rotatedSize: rotatedBy(config, angleSet ?? 0),
    slidingWindow,
    attentionScale: config.attentionScale,
    residualScale: config.residualScale,
    activation: config.activation,
    normsAllHeads: config.qkNorm === "all-heads",
    attentionNorm: optionalNorm(attentionNorm, attends),
    query: attention.latent?.queryLow ? product("", attention.query, {}) : qkv(attention.query),
    key,
    // Latent rows are values without a product, other keys with their own one.
    value: attention.latent ? undefined : value,
    valueNorm: config.normsValues && hasKeys ? onesOf(refs, layerHeads(config, index).headSize) : undefined,
    keysOf,
    queryNorm: optionalNorm(attention.queryNorm),
    keyNorm: hasKeys ? optionalNorm(attention.keyNorm) : undefined,
    outputGate: attention.gate && qkv(attention.gate),
    sinks: attention.sinks && packNorm(attention.sinks),
    latent: attention.latent && {
      queryLow: attention.latent.queryLow && qkv(attention.latent.queryLow),
      queryLowNorm: optionalNorm(attention.latent.queryLowNorm),
      queries: attention.latent.queries.map((linear) => product("", linear, {})),
      outputs: attention.latent.outputs.map((linear) => product("", linear, {})),
    },
    recurrence: describeRecurrence(config, attention.recurrence, qkv),
    attentionOutput: product(`${name}.attention.output`, attention.output, {}),
    attentionOutputNorm: optionalNorm(refs.attentionOutputNorm),
    ffnNorm: optionalNorm(ffnNorm, feeds),
    shared: ofAll && feedForward(`${name}.ffn`, ofAll),
    experts: isDense ? [] : experts.map((own, expert) => feedForward(`${name}.ffn.${expert}`, own)),
    mixture: mixture &&
      config.mixture && {
        // Float32 in all precisions: a rounded logit may choose another expert, and the router is small.
        router: packFloat({ weight: mixture.router, bias: mixture.routerBias }, feeds),
        experts: mixture.experts.map((own, expert) => feedForward(`${name}.ffn.${expert}`, own)),
        expertsPerToken: config.mixture.expertsPerToken,
        normalizesWeights: config.mixture.normalizesWeights,
        biases: biasesOf(mixture, config.mixture),
        weightScale: config.mixture.weightScale,
        expertScales: mixture.expertScales && packNorm(mixture.expertScales),
        norms: mixture.norms && {
          inputNorm: packNorm(mixture.norms.input, normOffset, feeds),
          sharedOutputNorm: packNorm(mixture.norms.sharedOutput, normOffset),
          outputNorm: packNorm(mixture.norms.output, normOffset),
        },
      },
    ffnOutputNorm: optionalNorm(refs.ffnOutputNorm),
    input: refs.input && {
      gate: product(`${name}.input`, refs.input.gate, {}),
      output: product(`${name}.input.output`, refs.input.output, {}),
      outputNorm: optionalNorm(refs.input.outputNorm),
    },
    streamScale: refs.streamScale && packNorm(repeated(refs.streamScale, config.hiddenSize)),
  };
}

/** Packs the norm of heads of values, which has no scales. */
function onesOf({ attention }: DescribedModel["weights"]["layers"][number], size: number): PackedTensor {
  return packNorm(computedTensor(attention.query.weight, [size], async () => new Float32Array(size).fill(1)));
}

/** Repeats a number as a vector. */
function repeated(ref: TensorRef, size: number): TensorRef {
  return computedTensor(ref, [size], async () => {
    const [value = 1] = await ref.store.readFloats(ref.name);
    return new Float32Array(size).fill(value);
  });
}

function describeLayerInputs(
  { config, weights: { layerInputs } }: DescribedModel,
  precision: Precision,
  product: PackProduct,
): DecoderDescription["layerInputs"] {
  const { layerInputSize: size = 0 } = config;
  if (!layerInputs || size === 0) return undefined;
  const { table, projection, norm } = layerInputs;
  // Their sum is divided by the root of 2, which both parts have as a factor here.
  const halved = computedTensor(norm, norm.shape, async () =>
    (await norm.store.readFloats(norm.name)).map((scale) => scale * Math.SQRT1_2),
  );
  return {
    size,
    table: embeddingOf(table, precision),
    tableScale: Math.sqrt(size) * Math.SQRT1_2,
    projection: product("layer-inputs", projection, {}),
    norm: packNorm(halved),
  };
}

function headsOf(config: DescribedModel["config"], index: number) {
  const { recurrence, layers } = config;
  if (!recurrence || !layers[index]?.isRecurrent) return layerHeads(config, index);
  const { numValueHeads, numKeyHeads, keySize } = recurrence;
  return { numHeads: numValueHeads, numKvHeads: numKeyHeads, headSize: keySize };
}

function describeRecurrence(
  { recurrence: config }: DescribedModel["config"],
  refs: RecurrenceRefs | undefined,
  qkv: (refs: LinearRefs) => PackedTensor,
): LayerDescription["recurrence"] {
  if (!config || !refs) return undefined;
  const { kind, valueSize, numTaps, numKeyHeads, keySize, numValueHeads } = config;
  const keys = numKeyHeads * keySize;
  return {
    kind,
    valueSize,
    isTiled: config.isTiled,
    numTaps,
    convolution: packConvolution(refs, config, [keys, keys, numValueHeads * valueSize]),
    rates: packRates(refs),
    strength: refs.strength && qkv(refs.strength),
    decay: refs.decay && qkv(refs.decay),
    outputNorm: refs.outputNorm && packNorm(refs.outputNorm),
  };
}

/** Packs the biases of a router that weighs by sigmoids: zeros if it has none. */
function biasesOf({ biases, router }: MixtureRefs, { sigmoids, numExperts }: MixtureConfig): PackedTensor | undefined {
  if (!sigmoids) return undefined;
  return packNorm(biases ?? computedTensor(router, [numExperts], async () => new Float32Array(numExperts)));
}

function packProduct(
  name: string,
  refs: LinearRefs,
  precision: Exclude<Precision, "int8">,
  calibration: InputStatistics | undefined,
): PackedTensor {
  if (precision === "fp32") return packFloat(refs);
  const stored = storedBlocks(refs.weight);
  if (stored) return packBlocks(stored, refs.bias);
  const type = fileTypeOf(refs.weight);
  if (type !== undefined && (precision === "file" || isBlockType(type))) return packFile(refs, type);
  if (precision === "file") return packFloat(refs);
  const blocks = (calibration && fittedBlocks(refs.weight, calibration, name)) ?? eightBitBlocks(refs.weight);
  return blocks ? packBlocks(blocks, refs.bias) : packInt8(refs);
}

/** Packs a table of embeddings that is not the head. */
function embeddingOf(weight: TensorRef, precision: Precision): PackedTensor {
  const type = precision === "file" ? fileTypeOf(weight) : undefined;
  if (type !== undefined && type !== "F16") return packFile({ weight, bias: undefined }, type);
  const isExact = precision === "fp32" || (precision === "file" && type !== "F16");
  return packTable(weight, isExact ? "float-table" : "half-table");
}

/** Packs what follows the final norm: of models that do not generate nothing, or a few rows, in float32. */
function headOf({ config, weights }: DescribedModel, precision: Precision): PackedTensor | undefined {
  const { pooling } = config;
  if (pooling && pooling.kind !== "score") return undefined;
  const refs = { weight: weights.head, bias: undefined };
  if (pooling) return packFloat(refs);
  // In 8 bits where layers are fitted to 4: it is read once a step, and tokens depend on it directly.
  return precision === "int8" ? packInt8(refs) : packProduct("head", refs, precision, undefined);
}

/** Products of a draft head take their inputs as they are. */
const NO_FACTORS: LayerFactors = { attends: undefined, feeds: undefined, gated: () => undefined };

/**
 * Describes a draft head. Its steps begin with `Kernel.writeStream`, since the head has no embeddings of its own.
 * Products have the blocks of their file, else 8 bits, unless the model's are float32; outputs are rounded as those of
 * the model.
 */
export function describeDraftHead({ config, tokenIds, weights }: DraftHead, precision: Precision): DecoderDescription {
  const product = (refs: LinearRefs): PackedTensor => {
    const type = fileTypeOf(refs.weight);
    if (precision === "fp32") return packFloat(refs);
    return type !== undefined && isBlockType(type) ? packFile(refs, type) : packInt8(refs);
  };
  const { finalNorm, tokenNorm, stateNorm, fusion, layer } = weights;
  const { hiddenSize, normOffset } = config;
  const head = { weight: weights.head, bias: undefined };
  const embedding = computedTensor(finalNorm, [1, hiddenSize], async () => new Float32Array(hiddenSize));
  const packing: Packing = { product: (_, refs) => product(refs), factorsOf: () => NO_FACTORS };
  return {
    vocabSize: 1,
    numLogits: tokenIds.length,
    hiddenSize,
    normEpsilon: config.rmsNormEpsilon,
    embeddingScale: 1,
    logitScale: config.logitScale,
    embedding: packTable(embedding, "float-table"),
    tokenNorm: packNorm(tokenNorm, normOffset),
    stateNorm: stateNorm && packNorm(stateNorm, normOffset),
    fusion: product(fusion),
    layers: [describeLayer({ config, experts: { names: ["draft"] }, weights: { layers: [layer] } }, 0, packing)],
    finalNorm: packNorm(finalNorm, normOffset),
    head: precision === "int8" ? packInt8(head) : packProduct("head", head, precision, undefined),
  };
}

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
    layers: layers.map((layer) => describeRouterLayer(config, layer)),
    finalNorm: packNorm(finalNorm),
    head: packFloat(head),
  };
}

function describeRouterLayer(
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

// Statistics of a mixture's experts, many of which few tokens of a calibration choose.

const OF_EXPERT = /^(?<ffn>layers\.\d+\.ffn)\.(?<expert>\d+)(?<down>\.down)?$/;

/** Weight of what is assumed before an expert's tokens are seen, as a share of all tokens: 8 of 256. */
const PRIOR = 1 / 32;

/**
 * Completes the statistics of experts by what holds for all. Of 256 tokens, one of 128 experts sees 16 on average and
 * often none; channels that are small in a few rows by chance would then be rounded badly in all others.
 *
 * - The inputs of gate and up are the layer's: a share of all tokens' squares is added to those of the expert's.
 * - The neurons of an expert have nothing in common with those of others: their squares are evened out, the more the
 *   fewer tokens the expert has. Tokens are estimated by the inputs, whose norms are about equal.
 */
export function withFewTokens(calibration: InputStatistics): InputStatistics {
  return {
    inputSquares: async (product) => {
      const own = await calibration.inputSquares(product);
      const { ffn, expert, down } = OF_EXPERT.exec(product)?.groups ?? {};
      if (ffn === undefined) return own;
      const ofAll = await calibration.inputSquares(ffn);
      if (down === undefined) return own.map((square, i) => square + PRIOR * ofAll[i]!);
      const tokenShare = sumOf(await calibration.inputSquares(`${ffn}.${expert}`)) / sumOf(ofAll);
      if (!(tokenShare > 0)) return own;
      const even = (sumOf(own) / own.length) * (PRIOR / tokenShare);
      return own.map((square) => square + even);
    },
  };
}

function sumOf(values: Float32Array): number {
  return values.reduce((sum, value) => sum + value, 0);
}
