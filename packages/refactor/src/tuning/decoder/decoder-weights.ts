// All weights of a model in memory as float32, by the names of `decoder` in `graphs`.

import type { LayerRefs, Model, TensorRef } from "@readme-moe/model";
import * as decoder from "../../graphs/decoder-layer.ts";
import type { GraphTensor } from "../../graphs/session.ts";

/** One weight of a model. */
export interface Weight {
  /** File and tensor of a Read-ME folder: `backbone/…` or `<expert>/…`. */
  readonly key: string;
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

/** Weights by the graphs' names, such as `query.weight`; factors of trained changes may be added. */
export type WeightGroup = Map<string, Weight>;

export interface LayerWeights {
  readonly attention: WeightGroup;
  /** The part of the FFN half that all tokens use: its norms, and shared rows if there are any. */
  readonly common: WeightGroup;
  readonly experts: readonly WeightGroup[];
}

export interface DecoderWeights {
  readonly layers: readonly LayerWeights[];
  readonly finalNorm: Weight;
  /** `[vocabSize, hiddenSize]` */
  readonly embedding: Float32Array;
  /** Like `embedding`; the same array if the two are tied. */
  readonly head: Float32Array;
}

/** Reads all weights. */
export async function readDecoderWeights({ weights }: Pick<Model, "weights">): Promise<DecoderWeights> {
  const layers: LayerWeights[] = [];
  for (const refs of weights.layers) layers.push(await readLayer(refs));
  const embedding = await read(weights.embedding);
  return {
    layers,
    finalNorm: await readWeight(weights.finalNorm, "backbone"),
    embedding,
    head: weights.head === weights.embedding ? embedding : await read(weights.head),
  };
}

/** Makes a graph's inputs out of weights. */
export function weightFeeds(groups: readonly ReadonlyMap<string, Weight>[]): Record<string, GraphTensor> {
  const feeds: Record<string, GraphTensor> = {};
  for (const group of groups)
    for (const [name, { values, shape }] of group) feeds[name] = { data: values, dims: shape };
  return feeds;
}

async function readLayer(layer: LayerRefs): Promise<LayerWeights> {
  const { shared } = layer;
  const common = [...decoder.feedForwardNorms(layer), ...(shared ? decoder.feedForwardWeights("shared", shared) : [])];
  const experts: WeightGroup[] = [];
  for (const [expert, refs] of layer.experts.entries()) {
    experts.push(await readGroup(decoder.feedForwardWeights("expert", refs), String(expert)));
  }
  return {
    attention: await readGroup(decoder.attentionWeights(layer), "backbone"),
    common: await readGroup(common, "backbone"),
    experts,
  };
}

/** @param file - of a Read-ME folder */
async function readGroup(refs: Iterable<readonly [string, TensorRef]>, file: string): Promise<WeightGroup> {
  const group: WeightGroup = new Map();
  for (const [name, ref] of refs) group.set(name, await readWeight(ref, file));
  return group;
}

async function readWeight(ref: TensorRef, file: string): Promise<Weight> {
  return { key: `${file}/${ref.name}`, shape: ref.shape, values: await read(ref) };
}

function read({ store, name }: TensorRef): Promise<Float32Array> {
  return store.readFloats(name);
}
