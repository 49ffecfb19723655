// Maps an encoder's config and tensors to the kernel's description.

import { layerConfig, type LinearRefs, type Model, type Precision, type TensorRef } from "@readme-moe/model";
import type { DecoderDescription, EncoderDescription, LayerDescription } from "./description.ts";
import { KV_PAGE_TOKENS } from "./kv/page-pool.ts";
import type { PackedTensor } from "./pack/block-types.ts";
import { bytesOf } from "./pack/block-types.ts";
import { orderChannels } from "./pack/order-channels.ts";
import { packedFloats, packLayerNorm, packTable } from "./pack/pack-tables.ts";

type EncoderModel = Pick<Model, "config" | "weights">;

/**
 * Describes an encoder, which gives states. A norm behind a sum is the one in front of the next product, and its result
 * is the residual stream from there on.
 *
 * @param product - packs a product in the model's precision
 */
export function describeEncoder(
  own: EncoderModel,
  precision: Precision,
  product: (refs: LinearRefs) => PackedTensor,
): DecoderDescription {
  const ordered = precision === "int8" ? orderChannels(own.weights) : undefined;
  const model = ordered ? { ...own, weights: ordered.weights } : own;
  const { config, weights } = model;
  const table = precision === "int8" || precision === "int4" ? "half-table" : "float-table";
  return {
    vocabSize: config.vocabSize,
    hiddenSize: config.hiddenSize,
    normEpsilon: config.rmsNormEpsilon,
    embeddingScale: config.embeddingScale,
    logitScale: 1,
    embedding: packTable(weights.embedding, table),
    layers: weights.layers.map((_, index) => describeLayer(model, index, product)),
    finalNorm: packLayerNorm(weights.finalNorm),
    head: undefined,
    encoder: { ...describeTables(model), channels: ordered?.order },
  };
}

function describeLayer(
  { config, weights }: EncoderModel,
  index: number,
  product: (refs: LinearRefs) => PackedTensor,
): LayerDescription {
  const { numHeads, headSize, rotatedSize, attentionScale, residualScale, activation, encoder } = config;
  const { slidingWindow, angleSet } = layerConfig(config, index);
  const refs = weights.layers[index]!;
  const { attention, shared, plain } = refs;
  const before = index === 0 ? weights.encoder?.embeddingNorm : weights.layers[index - 1]?.ffnOutputNorm;
  // The norm of embeddings replaces the stream, also where no norm behind a sum does.
  const isReplaced = encoder?.isPostNorm || index === 0;
  const attentionNorm = isReplaced ? before : refs.attentionNorm;
  const ffnNorm = encoder?.isPostNorm ? refs.attentionOutputNorm : refs.ffnNorm;
  const ffn = shared ?? plain;
  if (!ffn) throw new TypeError("Expected an encoder's layer with an FFN");
  return {
    numHeads,
    numKvHeads: numHeads,
    headSize,
    angleSet,
    rotatedSize,
    slidingWindow,
    attentionScale,
    residualScale,
    activation,
    attentionNorm: attentionNorm && packLayerNorm(attentionNorm),
    streamNorms: [...(isReplaced ? (["attention"] as const) : []), ...(encoder?.isPostNorm ? (["ffn"] as const) : [])],
    query: product(attention.query),
    key: product(attention.key),
    value: product(attention.value),
    queryNorm: undefined,
    keyNorm: undefined,
    attentionOutput: product(attention.output),
    attentionOutputNorm: undefined,
    ffnNorm: ffnNorm && packLayerNorm(ffnNorm),
    shared: { gate: shared && product(shared.gate), up: product(ffn.up), down: product(ffn.down) },
    ffnOutputNorm: undefined,
  };
}

function describeTables({ config, weights }: EncoderModel): EncoderDescription {
  const { positions, segments, distances } = weights.encoder ?? {};
  return {
    positions: positions && packTable(positions, "float-table"),
    segments: segments && packTable(segments, "float-table"),
    distances: distances && packDistances(distances, config),
  };
}

/** Packs the addends of scores, whose buckets are those of MPNet (and T5), for all distances within the context. */
function packDistances(
  buckets: TensorRef,
  { numHeads, contextTokens }: Pick<EncoderModel["config"], "numHeads" | "contextTokens">,
): PackedTensor {
  const [numBuckets = 0] = buckets.shape;
  // The kernel reads whole pages of keys.
  const reach = Math.ceil(contextTokens / KV_PAGE_TOKENS) * KV_PAGE_TOKENS;
  const sizes = { numOut: numHeads, numIn: 2 * reach, weightBytes: numHeads * 2 * reach * 4 };
  return packedFloats("float-table", sizes, async function* () {
    const values = await buckets.store.readFloats(buckets.name);
    for (let head = 0; head < numHeads; head++) {
      yield bytesOf(
        Float32Array.from({ length: 2 * reach }, (_, index) => {
          return values[bucketOf(index - reach, numBuckets) * numHeads + head]!;
        }),
      );
    }
  });
}

const FAR_DISTANCE = 128;

/**
 * Finds the bucket of a distance: half of them are for keys behind the query; of these half are for one distance each,
 * the others for ranges that grow. Source: `relative_position_bucket` of transformers' modeling_mpnet.py.
 *
 * @param distance - of a key behind its query
 */
function bucketOf(distance: number, numBuckets: number): number {
  const half = Math.floor(numBuckets / 2);
  const first = distance > 0 ? half : 0;
  const away = Math.abs(distance);
  const numExact = Math.floor(half / 2);
  if (away < numExact) return first + away;
  const share = Math.fround(Math.fround(Math.log(away / numExact)) / Math.fround(Math.log(FAR_DISTANCE / numExact)));
  return first + Math.min(half - 1, numExact + Math.trunc(Math.fround(share * (half - numExact))));
}
