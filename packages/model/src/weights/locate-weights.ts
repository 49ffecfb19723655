// The parts that all layouts have in common: embeddings, attention, norms and head under Hugging Face names. A dense
// checkpoint is the simplest layout.

import { invalid } from "../files/errors.ts";
import {
  type DenseConfig,
  denseModules,
  layerConfig,
  layerHeads,
  type MixtureConfig,
  type ModelConfig,
} from "../config/model-config.ts";
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
  type MixtureRefs,
  type ModelWeights,
  type NextLayerRefs,
  tensorRef,
  type TensorRef,
} from "./model-weights.ts";
import { SHARED_MODULE, splitFused, type TensorPart, TensorParts } from "./tensor-parts.ts";
import { computedTensor, joinRows, selectRows } from "./computed-tensors.ts";
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
type ProductNames = readonly [gate: string, up: string, down: string];

const PRODUCTS: ProductNames = ["gate_proj", "up_proj", "down_proj"];

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

// Finds routers and experts of mixtures: experts one by one or stacked in one tensor, under all their names.

/** Name of the only expert that a request can name: tokens choose within layers. */
export const MIXTURE_NAME = "mixture";

/** Names of a layer's router, behind `model.layers.N.`; the experts are in the same module. */
const ROUTERS = [
  { module: "mlp", router: "mlp.gate.weight" },
  { module: "mlp", router: "mlp.router.weight" },
  { module: "block_sparse_moe", router: "block_sparse_moe.gate.weight" },
  { module: "block_sparse_moe", router: "block_sparse_moe.router.layer.weight" },
] as const;

const SEPARATE: readonly ProductNames[] = [PRODUCTS, ["w1", "w3", "w2"]];

/**
 * Names of tensors of all experts. Gate and up are `[numExperts, expertSize, hiddenSize]`, or one tensor with the rows
 * of gate before those of up; down is `[numExperts, hiddenSize, expertSize]`.
 */
const STACKED: readonly StackedNames[] = [
  // GGUF files.
  { gate: "experts.gate_proj.weight", up: "experts.up_proj.weight", down: "experts.down_proj.weight" },
  { gateUp: "experts.gate_up_proj.weight", down: "experts.down_proj.weight" },
  // transformers 5.
  { gateUp: "experts.gate_up_proj", down: "experts.down_proj" },
  // Granite.
  { gateUp: "input_linear.weight", down: "output_linear.weight" },
];

type StackedNames =
  | { readonly gate: string; readonly up: string; readonly down: string }
  | { readonly gateUp: string; readonly down: string };

interface LayerPlace {
  readonly store: TensorStore;
  /** Module with the experts, such as `model.layers.3.mlp.`. */
  readonly prefix: string;
  readonly hiddenSize: number;
  readonly mixture: MixtureConfig;
}

/**
 * Finds the tensors of a mixture. Layers that are none are as in a dense checkpoint.
 *
 * @throws {ReadMeError} `ERR_MODEL_INVALID` naming the first tensor that is missing or has another shape
 */
export function locateMixture(
  checkpoint: TensorStore,
  config: ModelConfig,
  mixture: MixtureConfig,
): { readonly experts: ExpertLayout; readonly weights: ModelWeights } {
  const { intermediateSize, hiddenSize, hasMlpBias: hasBias, layers } = config;
  const { expertSize, expertsPerToken, sharedSize } = mixture;
  const store = splitFused(checkpoint, config);
  return {
    experts: {
      names: [MIXTURE_NAME],
      expertSizes: layers.map(({ isMixture }) => (isMixture ? expertsPerToken * expertSize : intermediateSize)),
      sharedSizes: layers.map(({ isMixture }) => (isMixture ? sharedSize : 0)),
    },
    weights: locateWeights(store, config, (layer) => {
      const prefix = `model.layers.${layer}.`;
      if (layers[layer]?.isMixture) {
        const ofAll = [{ prefix: `${prefix}${SHARED_MODULE}.` }, { size: sharedSize, hiddenSize, hasBias }] as const;
        const shared = sharedSize === 0 ? undefined : feedForwardRefs(store, ...ofAll);
        return { shared, experts: [], mixture: locateLayer(store, prefix, hiddenSize, mixture) };
      }
      const size = { size: intermediateSize, hiddenSize, hasBias };
      return { shared: undefined, experts: [feedForwardRefs(store, { prefix: `${prefix}mlp.` }, size)] };
    }),
  };
}

function locateLayer(store: TensorStore, prefix: string, hiddenSize: number, mixture: MixtureConfig): MixtureRefs {
  const names = ROUTERS.find(({ router }) => store.has(prefix + router));
  const known = ROUTERS.map(({ router }) => router).join(", ");
  if (names === undefined) throw invalid(store.path, `has no router ${prefix}… of the names ${known}`);
  const place = { store, prefix: `${prefix}${names.module}.`, hiddenSize, mixture };
  const separate = SEPARATE.find(([gate]) => store.has(`${place.prefix}experts.0.${gate}.weight`));
  const stacked = STACKED.find((one) => Object.values(one).every((name: string) => store.has(place.prefix + name)));
  const router = tensorRef(store, prefix + names.router, [mixture.numExperts, hiddenSize]);
  const bias = `${prefix}${names.router.replace(/weight$/, "bias")}`;
  return {
    routerBias: mixture.hasBiases ? tensorRef(store, bias, [mixture.numExperts]) : undefined,
    biases: mixture.sigmoids?.hasBiases ? biasesOf(place) : undefined,
    router: withSharedGate(store, prefix, router),
    experts: store.has(`${place.prefix}experts.gate_up_proj_bias`)
      ? interleavedExperts(place)
      : stacked
        ? withBiases(place, stackedExperts(place, stacked))
        : expertRefs(place, separate),
  };
}

/** Finds the biases by expert that choose with sigmoids; GGUF files name them as a product's. */
function biasesOf({ store, prefix, mixture: { numExperts } }: LayerPlace): TensorRef {
  const name = `${prefix}expert_bias`;
  return tensorRef(store, store.has(name) ? name : `${name}.bias`, [numExperts]);
}

/** Adds the row of the gate of the part that all tokens use, if the layer has one. GGUF files have it as a vector. */
function withSharedGate(store: TensorStore, prefix: string, router: TensorRef): TensorRef {
  const name = `${prefix}${SHARED_MODULE}_gate.weight`;
  if (!store.has(name)) return router;
  const [, ...width] = router.shape;
  return joinRows(router, tensorRef(store, name, store.info(name).shape.length === 1 ? width : [1, ...width]));
}

function expertRefs(
  { store, prefix, hiddenSize, mixture: { numExperts, expertSize } }: LayerPlace,
  products: ProductNames = PRODUCTS,
): readonly FeedForwardRefs[] {
  return Array.from({ length: numExperts }, (_, expert) => {
    const place = { prefix: `${prefix}experts.${expert}.`, products };
    return feedForwardRefs(store, place, { size: expertSize, hiddenSize, hasBias: false });
  });
}

function stackedExperts(place: LayerPlace, names: StackedNames): readonly FeedForwardRefs[] {
  const { store, prefix, hiddenSize, mixture } = place;
  const { numExperts, expertSize } = mixture;
  const stack = (name: string, rows: number, columns: number): TensorRef =>
    tensorRef(store, prefix + name, [numExperts, rows, columns]);
  const isFused = "gateUp" in names;
  const gate = isFused ? stack(names.gateUp, 2 * expertSize, hiddenSize) : stack(names.gate, expertSize, hiddenSize);
  const up = isFused ? gate : stack(names.up, expertSize, hiddenSize);
  const down = stack(names.down, hiddenSize, expertSize);
  const firstUp = isFused ? expertSize : 0;
  const products = [
    { name: "gate_proj", source: gate, from: 0, to: expertSize },
    { name: "up_proj", source: up, from: firstUp, to: firstUp + expertSize },
    { name: "down_proj", source: down, from: 0, to: hiddenSize },
  ];
  const parts = new Map<string, TensorPart>();
  for (let expert = 0; expert < numExperts; expert++) {
    for (const { name, source, from, to } of products) {
      const first = expert * (source.shape[1] ?? 0);
      const rows = { from: first + from, to: first + to, axes: 2 };
      parts.set(`${prefix}experts.${expert}.${name}.weight`, { of: source.name, rows });
    }
  }
  return expertRefs({ ...place, store: new TensorParts(store, parts) });
}

/** Adds the biases of stacked experts, `[numExperts, rows]`. */
function withBiases({ store, prefix, mixture }: LayerPlace, experts: readonly FeedForwardRefs[]) {
  if (!mixture.hasBiases) return experts;
  return experts.map((refs, expert): FeedForwardRefs => {
    const [gate, up, down] = PRODUCTS.map((name) => `${prefix}experts.${name}.bias`);
    const biased = ({ weight }: LinearRefs, name: string): LinearRefs => {
      const numRows = weight.shape[0] ?? 0;
      return {
        weight,
        bias: vectorOf(tensorRef(store, name, [mixture.numExperts, numRows]), expert, everyRow(numRows)),
      };
    };
    return { gate: biased(refs.gate, gate!), up: biased(refs.up, up!), down: biased(refs.down, down!) };
  });
}

function everyRow(count: number, step = 1, first = 0): readonly number[] {
  return Array.from({ length: count }, (_, row) => first + step * row);
}

/** Takes some numbers of one row of a matrix as a vector. */
function vectorOf(matrix: TensorRef, row: number, places: readonly number[]): TensorRef {
  return computedTensor(matrix, [places.length], async ({ from, to }) => {
    const values = await matrix.store.readFloats(matrix.name, { from: row, to: row + 1 });
    return Float32Array.from(places.slice(from, to), (place) => values[place]!);
  });
}

/**
 * Finds the experts of gpt-oss: rows of gate and up alternate. In MXFP4 a tensor has an expert's rows as others do, in
 * floats an expert's matrix is transposed.
 */
function interleavedExperts({ store, prefix, hiddenSize, mixture }: LayerPlace): readonly FeedForwardRefs[] {
  const { numExperts, expertSize } = mixture;
  const matrixOf = (name: string, expert: number, rows: number, columns: number): TensorRef => {
    const whole = `${prefix}experts.${name}`;
    if (store.info(whole).type !== "MXFP4") {
      return transposed(tensorRef(store, whole, [numExperts, columns, rows]), expert);
    }
    tensorRef(store, whole, [numExperts, rows, columns]);
    const part = { of: whole, rows: { from: expert * rows, to: (expert + 1) * rows, axes: 2 } };
    return tensorRef(new TensorParts(store, new Map([[`${whole}.${expert}`, part]])), `${whole}.${expert}`, [
      rows,
      columns,
    ]);
  };
  const gateUpBias = tensorRef(store, `${prefix}experts.gate_up_proj_bias`, [numExperts, 2 * expertSize]);
  const downBias = tensorRef(store, `${prefix}experts.down_proj_bias`, [numExperts, hiddenSize]);
  return Array.from({ length: numExperts }, (_, expert): FeedForwardRefs => {
    const gateUp = matrixOf("gate_up_proj", expert, 2 * expertSize, hiddenSize);
    const [gate, up] = [0, 1].map((first): LinearRefs => {
      const rows = everyRow(expertSize, 2, first);
      return { weight: selectRows(gateUp, rows), bias: vectorOf(gateUpBias, expert, rows) };
    });
    const weight = matrixOf("down_proj", expert, hiddenSize, expertSize);
    return { gate: gate!, up: up!, down: { weight, bias: vectorOf(downBias, expert, everyRow(hiddenSize)) } };
  });
}

/** Turns one matrix `[columns, rows]` of a stack into `[rows, columns]`. */
function transposed(stack: TensorRef, index: number): TensorRef {
  const [, columns = 0, rows = 0] = stack.shape;
  return computedTensor(stack, [rows, columns], async ({ from, to }) => {
    const values = await stack.store.readFloats(stack.name, { from: index, to: index + 1 });
    const turned = new Float32Array((to - from) * columns);
    for (let row = from; row < to; row++)
      for (let column = 0; column < columns; column++)
        turned[(row - from) * columns + column] = values[column * rows + row]!;
    return turned;
  });
}
