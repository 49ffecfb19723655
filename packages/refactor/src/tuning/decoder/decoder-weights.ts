// All weights of a model in memory as float32, by the names that graphs have for them.

import type { LinearRefs, Model, ModelWeights, TensorRef } from "@readme-moe/model";
import type { GraphTensor } from "@readme-moe/onnx";

/** One weight of a model. */
export interface Weight {
  /** File and tensor of a Read-ME folder: `backbone/…` or `<expert>/…`. */
  readonly key: string;
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

/** By the graphs' names, such as `query.weight`; what is trained beside a weight may be added. */
export type WeightGroup = Map<string, Weight>;

export interface LayerWeights {
  readonly attention: WeightGroup;
  /** Of the feed-forward half, what all tokens use: its norm, and shared rows where there are any. */
  readonly common: WeightGroup;
  readonly experts: readonly WeightGroup[];
}

export interface DecoderWeights {
  readonly layers: readonly LayerWeights[];
  readonly finalNorm: Weight;
  /** `[vocabSize, hiddenSize]` */
  readonly embedding: Float32Array;
  /** As `embedding`, and the same array where the two are tied. */
  readonly head: Float32Array;
}

type LayerRefs = ModelWeights["layers"][number];
type FeedForwardRefs = LayerRefs["experts"][number];

export async function readDecoderWeights({ weights }: Pick<Model, "weights">): Promise<DecoderWeights> {
  const layers: LayerWeights[] = [];
  for (const [index, refs] of weights.layers.entries()) layers.push(await readLayer(refs, `model.layers.${index}`));
  const embedding = await read(weights.embedding);
  return {
    layers,
    finalNorm: await readWeight(weights.finalNorm, "backbone/model.norm.weight"),
    embedding,
    head: weights.head === weights.embedding ? embedding : await read(weights.head),
  };
}

/** What a graph is fed with of its weights. */
export function weightFeeds(groups: readonly ReadonlyMap<string, Weight>[]): Record<string, GraphTensor> {
  const feeds: Record<string, GraphTensor> = {};
  for (const group of groups)
    for (const [name, { values, shape }] of group) feeds[name] = { data: values, dims: shape };
  return feeds;
}

async function readLayer(refs: LayerRefs, prefix: string): Promise<LayerWeights> {
  const { query, key, value, output, queryNorm, keyNorm } = refs.attention;
  const attention: WeightGroup = new Map();
  attention.set("norm", await readWeight(refs.inputNorm, `backbone/${prefix}.input_layernorm.weight`));
  for (const [name, short, linear] of [
    ["query", "q_proj", query],
    ["key", "k_proj", key],
    ["value", "v_proj", value],
    ["output", "o_proj", output],
  ] as const) {
    await addLinear(attention, name, linear, `backbone/${prefix}.self_attn.${short}`);
  }
  for (const [name, short, ref] of [
    ["query_norm", "q_norm", queryNorm],
    ["key_norm", "k_norm", keyNorm],
  ] as const) {
    if (ref) attention.set(name, await readWeight(ref, `backbone/${prefix}.self_attn.${short}.weight`));
  }
  const common: WeightGroup = new Map();
  common.set("norm", await readWeight(refs.postAttentionNorm, `backbone/${prefix}.post_attention_layernorm.weight`));
  if (refs.shared) await addFeedForward(common, "shared", refs.shared, `backbone/${prefix}.mlp`);
  const experts: WeightGroup[] = [];
  for (const [expert, part] of refs.experts.entries()) {
    const group: WeightGroup = new Map();
    await addFeedForward(group, "expert", part, `${expert}/${prefix}.mlp`);
    experts.push(group);
  }
  return { attention, common, experts };
}

async function addFeedForward(group: WeightGroup, name: string, refs: FeedForwardRefs, key: string): Promise<void> {
  await addLinear(group, `${name}.gate`, refs.gate, `${key}.gate_proj`);
  await addLinear(group, `${name}.up`, refs.up, `${key}.up_proj`);
  await addLinear(group, `${name}.down`, refs.down, `${key}.down_proj`);
}

async function addLinear(group: WeightGroup, name: string, { weight, bias }: LinearRefs, key: string): Promise<void> {
  group.set(`${name}.weight`, await readWeight(weight, `${key}.weight`));
  if (bias) group.set(`${name}.bias`, await readWeight(bias, `${key}.bias`));
}

async function readWeight(ref: TensorRef, key: string): Promise<Weight> {
  return { key, shape: ref.shape, values: await read(ref) };
}

function read({ store, name }: TensorRef): Promise<Float32Array> {
  return store.readFloats(name);
}
