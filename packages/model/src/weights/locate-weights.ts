// The parts that all layouts have in common: embeddings, attention, norms and head under Hugging Face names. A dense
// checkpoint is the simplest layout.

import { invalid } from "../files/errors.ts";
import { type DenseConfig, denseModules, layerConfig, layerHeads, type ModelConfig } from "../config/model-config.ts";
import type { TensorStore } from "../tensor-store.ts";
import {
  type AttentionRefs,
  type ClassifierRefs,
  type ExpertLayout,
  type FeedForwardRefs,
  type HasBias,
  type LayerRefs,
  linearRefs,
  type LinearRefs,
  type ModelWeights,
  type NextLayerRefs,
  tensorRef,
  type TensorRef,
} from "./model-weights.ts";
import { splitFused } from "./tensor-parts.ts";
import { selectRows } from "./computed-tensors.ts";
import { locateLatent } from "./locate-latent.ts";
import { locateInput, locateLayerInputs } from "./locate-inputs.ts";
import { locateRecurrence, rowsOf } from "./locate-recurrence.ts";

/** Name of the only expert of a dense model. */
export const DENSE_NAME = "dense";

/** Finds a layer's FFN rows, the only part in which layouts differ. */
type LocateFeedForward = (layer: number) => Pick<LayerRefs, "shared" | "experts" | "mixture">;

/**
 * Finds all tensors of a model.
 *
 * @throws {ReadMeError} `ERR_MODEL_INVALID` naming the first tensor that is missing or has another shape
 */
export function locateWeights(
  store: TensorStore,
  config: ModelConfig,
  locateFeedForward: LocateFeedForward,
): ModelWeights {
  const { vocabSize, hiddenSize } = config;
  const embedding = tensorRef(store, "model.embed_tokens.weight", [vocabSize, hiddenSize]);
  return {
    embedding,
    layers: Array.from({ length: config.numLayers }, (_, layer) => ({
      ...locateMixing(store, config, layer, prefixOf),
      ...locateFeedForward(layer),
      ...locateInput(store, config, layer),
    })),
    layerInputs: locateLayerInputs(store, config),
    finalNorm: tensorRef(store, "model.norm.weight", [hiddenSize]),
    head: locateHead(store, config, embedding),
  };
}

/** Beginning of the names of a layer's tensors. */
type LayerPrefix = (layer: number) => string;

const prefixOf: LayerPrefix = (layer) => `model.layers.${layer}.`;

/** Finds what a layer has beside its FFN: norms, and attention or a recurrence. */
function locateMixing(store: TensorStore, config: ModelConfig, layer: number, at: LayerPrefix) {
  const { hiddenSize, norms } = config;
  const norm = (name: string | undefined): TensorRef | undefined =>
    name === undefined ? undefined : tensorRef(store, `${at(layer)}${name}.weight`, [hiddenSize]);
  return {
    attentionNorm: norm(norms.attention),
    attention: layerConfig(config, layer).isRecurrent
      ? locateRecurrence(store, config, at(layer))
      : locateAttention(store, config, layer, at),
    attentionOutputNorm: norm(norms.attentionOutput),
    ffnNorm: norm(norms.ffn),
    ffnOutputNorm: norm(norms.ffnOutput),
  };
}

/**
 * Finds the products of modules Dense.
 *
 * @param placeOf - finds a module's tensors, and their names before `.weight` and `.bias`
 * @throws {ReadMeError} `ERR_MODEL_INVALID` naming the file of one that does not take what the one before it gives
 */
export async function locateModules(
  config: Pick<ModelConfig, "hiddenSize" | "pooling">,
  placeOf: (module: DenseConfig) => Promise<readonly [store: TensorStore, prefix: string]>,
): Promise<readonly ClassifierRefs[]> {
  const refs: ClassifierRefs[] = [];
  let given = config.hiddenSize;
  for (const module of denseModules(config)) {
    const { name, inSize, outSize, activation } = module;
    const [store, prefix] = await placeOf(module);
    if (inSize !== given) throw invalid(store.path, `${name} takes ${inSize} numbers, those before it give ${given}`);
    refs.push({ ...linearRefs(store, prefix, module), activation, norm: undefined });
    given = outSize;
  }
  return refs;
}

function locateHead(
  store: TensorStore,
  { vocabSize, hiddenSize, hasTiedEmbeddings, pooling }: ModelConfig,
  embedding: TensorRef,
): TensorRef {
  if (pooling && pooling.kind !== "score") {
    if (hiddenSize <= vocabSize) return embedding;
    // The head is packed as a square of this width, which the file has to outweigh.
    throw invalid(store.path, `makes embeddings of ${hiddenSize} dimensions of ${vocabSize} tokens, more than tokens`);
  }
  const score = pooling?.head;
  if (score && "tensor" in score) {
    const { tensor, numRows, rows } = score;
    return selectRows(tensorRef(store, tensor, [numRows, hiddenSize]), rows);
  }
  const head = hasTiedEmbeddings ? embedding : tensorRef(store, "lm_head.weight", [vocabSize, hiddenSize]);
  if (score === undefined) return head;
  const { tokenIds } = score;
  const unknown = tokenIds.find((id) => id >= vocabSize);
  if (unknown === undefined) return selectRows(head, tokenIds);
  throw invalid(store.path, `the score is of token ${unknown}, the model has ${vocabSize} tokens`);
}

/** Finds the tensors of a dense checkpoint, which is one expert without a router. */
export function locateDense(
  checkpoint: TensorStore,
  config: ModelConfig,
): { readonly experts: ExpertLayout; readonly weights: ModelWeights } {
  const { intermediateSize, hiddenSize, hasMlpBias: hasBias, numLayers, layers } = config;
  const store = splitFused(checkpoint, config);
  const sizeOf = (layer: number): number => layers[layer]?.ffnSize ?? intermediateSize;
  return {
    experts: {
      names: [DENSE_NAME],
      expertSizes: Array.from({ length: numLayers }, (_, layer) => sizeOf(layer)),
      sharedSizes: Array.from({ length: numLayers }, () => 0),
    },
    weights: locateWeights(store, config, (layer) => {
      const place = { prefix: `model.layers.${layer}.mlp.` };
      const ffn = feedForwardRefs(store, place, { size: sizeOf(layer), hiddenSize, hasBias });
      return { shared: undefined, experts: [ffn] };
    }),
  };
}

/** Names of a layer that predicts a further token, in safetensors and in GGUF files, behind the model's own layers. */
function nextNames(numLayers: number) {
  const blocks = `blk.${numLayers}.nextn.`;
  return [
    {
      layer: "mtp.layers.0.",
      fusion: "mtp.fc",
      tokenNorm: "mtp.pre_fc_norm_embedding.weight",
      stateNorm: "mtp.pre_fc_norm_hidden.weight",
      finalNorm: "mtp.norm.weight",
    },
    {
      layer: `model.layers.${numLayers}.`,
      fusion: `${blocks}eh_proj`,
      tokenNorm: `${blocks}enorm.weight`,
      stateNorm: `${blocks}hnorm.weight`,
      finalNorm: `${blocks}shared_head_norm.weight`,
    },
  ];
}

/** Describes the layer that predicts a further token as a model of one layer: the first one with attention. */
export function nextLayerConfig(config: ModelConfig): ModelConfig {
  const { layers, ropes } = config;
  const { angleSet, ...layer } = layers.find(({ isRecurrent }) => !isRecurrent)!;
  const own = angleSet === undefined ? {} : { ropes: ropes.slice(angleSet, angleSet + 1) };
  const only = { ...layer, angleSet: angleSet === undefined ? undefined : 0 };
  return { ...config, ...own, numLayers: 1, layers: [only], recurrence: undefined };
}

/**
 * Finds the first layer of a dense checkpoint that predicts a further token.
 *
 * @throws {ReadMeError} `ERR_MODEL_INVALID` naming the first tensor that is missing or has another shape
 */
export function locateNext(store: TensorStore, config: ModelConfig): NextLayerRefs | undefined {
  const { hiddenSize, numLayers, intermediateSize: size, hasMlpBias: hasBias } = config;
  const names = nextNames(numLayers).find(({ fusion }) => store.has(`${fusion}.weight`));
  if (names === undefined) return undefined;
  const norm = (name: string): TensorRef => tensorRef(store, name, [hiddenSize]);
  const ffn = feedForwardRefs(store, { prefix: `${names.layer}mlp.` }, { size, hiddenSize, hasBias });
  return {
    fusion: linearRefs(store, names.fusion, { outSize: hiddenSize, inSize: 2 * hiddenSize, hasBias: false }),
    tokenNorm: norm(names.tokenNorm),
    stateNorm: norm(names.stateNorm),
    layer: {
      ...locateMixing(store, nextLayerConfig(config), 0, () => names.layer),
      shared: undefined,
      experts: [ffn],
    },
    // Files without a norm of this layer's share the model's.
    finalNorm: norm(store.has(names.finalNorm) ? names.finalNorm : "model.norm.weight"),
  };
}

function locateAttention(store: TensorStore, config: ModelConfig, layer: number, at: LayerPrefix): AttentionRefs {
  const { keysOf = layer, keysAreValues } = layerConfig(config, layer);
  const prefix = `${at(layer)}self_attn`;
  if (config.latent) return locateLatent(store, config, config.latent, `${prefix}.`);
  const keyPrefix = `${at(keysOf)}self_attn`;
  const { hiddenSize, hasQkvBias, hasOutputBias, qkNorm, gatesAttention } = config;
  const { numHeads, numKvHeads, headSize } = layerHeads(config, layer);
  const querySize = numHeads * headSize;
  const keySize = numKvHeads * headSize;
  const linear = (name: string, outSize: number, inSize: number, hasBias: boolean): LinearRefs =>
    linearRefs(store, `${prefix}.${name}`, { outSize, inSize, hasBias });
  const keys = (name: string): LinearRefs =>
    linearRefs(store, `${keyPrefix}.${name}`, { outSize: keySize, inSize: hiddenSize, hasBias: hasQkvBias });
  const key = keys("k_proj");
  const norm = (name: string, allHeads: number): TensorRef | undefined =>
    qkNorm && tensorRef(store, `${name}.weight`, [qkNorm === "head" ? headSize : allHeads]);
  const gated = gatesAttention ? linear("q_proj", 2 * querySize, hiddenSize, hasQkvBias) : undefined;
  return {
    query: gated ? rowsOf(gated, headRows(config, 0)) : linear("q_proj", querySize, hiddenSize, hasQkvBias),
    gate: gated && rowsOf(gated, headRows(config, 1)),
    key,
    value: keysAreValues ? key : keys("v_proj"),
    output: linear("o_proj", hiddenSize, querySize, hasOutputBias),
    sinks: config.hasSinks ? sinksOf(store, `${prefix}.sinks`, config.numHeads) : undefined,
    queryNorm: norm(`${prefix}.q_norm`, querySize),
    keyNorm: norm(`${keyPrefix}.k_norm`, keySize),
  };
}

/** Finds scores of heads; GGUF files name them as weights. */
function sinksOf(store: TensorStore, name: string, numHeads: number): TensorRef {
  return tensorRef(store, store.has(name) ? name : `${name}.weight`, [numHeads]);
}

/** Lists the rows of all heads' queries (part 0) or gates (1), which alternate by head. */
function headRows({ numHeads, headSize }: ModelConfig, part: number): readonly number[] {
  return Array.from({ length: numHeads * headSize }, (_, row) => row + (Math.floor(row / headSize) + part) * headSize);
}

/** Names of an FFN's products: gate, up, down. */
export type ProductNames = readonly [gate: string, up: string, down: string];

/** Names in most checkpoints. */
export const PRODUCTS: ProductNames = ["gate_proj", "up_proj", "down_proj"];

interface FeedForwardPlace {
  /** Texts around the names of the products. */
  readonly prefix: string;
  readonly suffix?: string;
  /** @default `gate_proj`, `up_proj`, `down_proj` */
  readonly products?: ProductNames;
}

/** Finds an FFN of `size` rows. */
export function feedForwardRefs(
  store: TensorStore,
  { prefix, suffix = "", products: [gate, up, down] = PRODUCTS }: FeedForwardPlace,
  { size, hiddenSize, hasBias }: { readonly size: number; readonly hiddenSize: number; readonly hasBias: HasBias },
): FeedForwardRefs {
  const inner = { outSize: size, inSize: hiddenSize, hasBias };
  return {
    gate: linearRefs(store, `${prefix}${gate}${suffix}`, inner),
    up: linearRefs(store, `${prefix}${up}${suffix}`, inner),
    down: linearRefs(store, `${prefix}${down}${suffix}`, { outSize: hiddenSize, inSize: size, hasBias }),
  };
}
