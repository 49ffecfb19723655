// All weights of a model in memory, by the names of `decoder` in `graphs`: in float32, or packed as frozen products.

import { FrozenProduct, kernelThreads, ProductTeam } from "@readme-moe/kernel";
import type { LayerRefs, Model, TensorRef } from "@readme-moe/model";
import * as decoder from "../graphs/decoder-layer.ts";
import type { GraphTensor } from "../graphs/session.ts";
import type { Frozen, FrozenFeeds } from "../graphs/staged-session.ts";

export interface Weight {
  /** File and tensor of a Read-ME folder: `backbone/…` or `<expert>/…`. */
  readonly key: string;
  readonly shape: readonly number[];
  /** Empty where the weight is a frozen product. */
  readonly values: Float32Array;
  /** Product in place of the values. */
  readonly frozen?: Frozen | undefined;
}

/** Weights by the graphs' names, such as `query.weight`; factors of trained changes may be added. */
export type WeightGroup = Map<string, Weight>;

export interface LayerWeights {
  readonly attention: WeightGroup;
  /** The part of the FFN half that all tokens use: its norms, and shared rows if there are any. */
  readonly common: WeightGroup;
  readonly experts: readonly WeightGroup[];
}

/** Weights behind the last layer. */
export interface HeadWeights {
  readonly finalNorm: Weight;
  /** `[vocabSize, hiddenSize]` */
  readonly head: Float32Array;
  /** Product that graphs use in place of these values. */
  readonly headProduct?: Frozen | undefined;
}

/** All weights; `head` is `embedding` if the two are tied. */
export interface DecoderWeights extends HeadWeights {
  readonly layers: readonly LayerWeights[];
  /** `[vocabSize, hiddenSize]` */
  readonly embedding: Float32Array;
}

/** Arithmetic of weights that are not trained: in the kernel's 8 bits, or in float32. */
export type FrozenArithmetic = "int8" | "float";

/** Reads the weights of models, whose frozen products have the same threads. */
export class WeightReader {
  readonly #team: ProductTeam | undefined;

  constructor(arithmetic: FrozenArithmetic, threads: number | undefined) {
    this.#team = arithmetic === "int8" ? new ProductTeam(kernelThreads(threads)) : undefined;
  }

  /** @param hasGradients - whether gradients of inputs are wanted, too */
  read(model: Pick<Model, "weights">, hasGradients: boolean): Promise<DecoderWeights> {
    const team = this.#team;
    if (!team) return readDecoderWeights(model);
    return readDecoderWeights(model, (weight) =>
      FrozenProduct.open(team, { weight, bias: undefined }, { hasGradients }),
    );
  }

  /** Ends the threads. */
  close(): void {
    this.#team?.close();
  }
}

/** Makes a frozen product of a matrix. */
type Freeze = (weight: TensorRef) => Promise<Frozen>;

/**
 * Reads a model's weights.
 *
 * @param freeze - turns matrices into frozen products, whose values are not read
 */
export async function readDecoderWeights(
  { weights }: Pick<Model, "weights">,
  freeze?: Freeze,
): Promise<DecoderWeights> {
  const layers: LayerWeights[] = [];
  for (const refs of weights.layers) layers.push(await readLayer(refs, freeze));
  const embedding = await read(weights.embedding);
  const ofHead = weights.head === weights.embedding ? embedding : undefined;
  return {
    layers,
    finalNorm: await readWeight(weights.finalNorm, "backbone"),
    embedding,
    head: freeze ? NO_VALUES : (ofHead ?? (await read(weights.head))),
    headProduct: await freeze?.(weights.head),
  };
}

export function weightFeeds(groups: readonly ReadonlyMap<string, Weight>[]): Record<string, GraphTensor> {
  const feeds: Record<string, GraphTensor> = {};
  for (const group of groups) {
    for (const [name, { values, shape, frozen }] of group) if (!frozen) feeds[name] = { data: values, dims: shape };
  }
  return feeds;
}

export function frozenFeeds(groups: readonly ReadonlyMap<string, Weight>[]): FrozenFeeds {
  const feeds: Record<string, Frozen> = {};
  for (const group of groups) for (const [name, { frozen }] of group) if (frozen) feeds[name] = frozen;
  return feeds;
}

async function readLayer(layer: LayerRefs, freeze: Freeze | undefined): Promise<LayerWeights> {
  const { shared } = layer;
  const common = [...decoder.feedForwardNorms(layer), ...(shared ? decoder.feedForwardWeights("shared", shared) : [])];
  const experts: WeightGroup[] = [];
  for (const [expert, refs] of layer.experts.entries()) {
    experts.push(await readGroup(decoder.feedForwardWeights("expert", refs), String(expert), freeze));
  }
  return {
    attention: await readGroup(decoder.attentionWeights(layer), "backbone", freeze),
    common: await readGroup(common, "backbone", freeze),
    experts,
  };
}

async function readGroup(
  refs: Iterable<readonly [string, TensorRef]>,
  file: string,
  freeze: Freeze | undefined,
): Promise<WeightGroup> {
  const group: WeightGroup = new Map();
  for (const [name, ref] of refs) {
    const isMatrix = name.endsWith(".weight") && ref.shape.length === 2;
    const frozen = isMatrix ? await freeze?.(ref) : undefined;
    const key = `${file}/${ref.name}`;
    group.set(name, frozen ? { key, shape: ref.shape, values: NO_VALUES, frozen } : await readWeight(ref, file));
  }
  return group;
}

const NO_VALUES = new Float32Array(0);

/** @param file - of a Read-ME folder */
export async function readWeight(ref: TensorRef, file: string): Promise<Weight> {
  return { key: `${file}/${ref.name}`, shape: ref.shape, values: await read(ref) };
}

function read({ store, name }: TensorRef): Promise<Float32Array> {
  return store.readFloats(name);
}
