// Finds the tensors of a pre-gating router, and reads its sizes; and checkpoints of the paper's code, which have one.

import { type Fields, MOST } from "../config/fields.ts";
import type { ModelConfig } from "../config/model-config.ts";
import type { TensorStore } from "../tensor-store.ts";
import { tableRef } from "./computed-tensors.ts";
import { feedForwardRefs, locateWeights } from "./locate-weights.ts";
import {
  type ExpertLayout,
  linearRefs,
  type LinearRefs,
  type ModelWeights,
  tensorRef,
  type TensorRef,
} from "./model-weights.ts";

/**
 * The pre-gating router's shape: a small causal transformer over token ids with one output per expert (Read-ME,
 * table 1). Unlike Llama it has biases in all products, two FFN matrices instead of three, and attention scores
 * divided by `normalizer`, which the authors set to 1.
 */
export interface RouterConfig {
  readonly vocabSize: number;
  readonly numExperts: number;
  /** Width of the embedding and of the residual stream; the same as `innerSize` in the official architecture. */
  readonly embeddingSize: number;
  /** Width of queries, keys, values and of the FFN. */
  readonly innerSize: number;
  readonly numHeads: number;
  readonly numLayers: number;
  readonly normalizer: number;
  readonly ropeTheta: number;
  readonly contextTokens: number;
}

interface RouterLayerRefs {
  readonly inputNorm: TensorRef; // [embeddingSize]
  readonly query: LinearRefs; // [innerSize, embeddingSize]
  readonly key: LinearRefs;
  readonly value: LinearRefs;
  readonly output: LinearRefs; // [embeddingSize, innerSize]
  readonly postAttentionNorm: TensorRef; // [embeddingSize]
  readonly expand: LinearRefs; // [innerSize, embeddingSize]
  readonly contract: LinearRefs; // [embeddingSize, innerSize]
}

/** Location of a pre-gating router's tensors. Shapes are those of the checkpoint: rows are outputs. */
export interface RouterWeights {
  readonly config: RouterConfig;
  readonly embedding: TensorRef; // [vocabSize, embeddingSize]
  readonly layers: readonly RouterLayerRefs[];
  readonly finalNorm: TensorRef; // [embeddingSize]
  readonly head: LinearRefs; // [numExperts, embeddingSize]
}

/** Epsilon of the router's RMS norms, independent of the model's. */
export const ROUTER_RMS_NORM_EPSILON = 1e-6;

/**
 * Finds a router's tensors by their official names. The embedding may be stored as signed bytes with a scale for each
 * row, in `embed.scales`.
 *
 * @param prefix - `cluster_predictor.` in an official conversion, else empty
 */
export function locateRouter(store: TensorStore, prefix: string, config: RouterConfig): RouterWeights {
  const { embeddingSize, innerSize } = config;
  const norm = (name: string): TensorRef => tensorRef(store, `${prefix}${name}.weight`, [embeddingSize]);
  const linear = (name: string, outSize: number, inSize: number): LinearRefs =>
    linearRefs(store, `${prefix}${name}`, { outSize, inSize, hasBias: true });
  return {
    config,
    embedding: tableRef(store, `${prefix}embed.weight`, [config.vocabSize, embeddingSize]),
    layers: Array.from({ length: config.numLayers }, (_, layer) => ({
      inputNorm: norm(`input_layernorm_${layer}`),
      query: linear(`q_proj_${layer}`, innerSize, embeddingSize),
      key: linear(`k_proj_${layer}`, innerSize, embeddingSize),
      value: linear(`v_proj_${layer}`, innerSize, embeddingSize),
      output: linear(`o_proj_${layer}`, embeddingSize, innerSize),
      postAttentionNorm: norm(`post_attention_layernorm_${layer}`),
      expand: linear(`proj_1_${layer}`, innerSize, embeddingSize),
      contract: linear(`proj_2_${layer}`, embeddingSize, innerSize),
    })),
    finalNorm: norm("out_layernorm"),
    head: linear("proj_out", config.numExperts, embeddingSize),
  };
}

/** Parts of a model's config that also hold for its router. */
type RoutedModel = Pick<ModelConfig, "vocabSize" | "contextTokens" | "ropes">;

/** Names of a router's fields: in the section `readme.router` of config.json, and in the paper's own config.json. */
const ROUTER_FIELDS = {
  own: {
    activation: "activation",
    embeddingSize: "embedding_size",
    innerSize: "inner_size",
    numHeads: "num_heads",
    numLayers: "num_layers",
    contextTokens: "context_tokens",
  },
  official: {
    activation: "hidden_act_predictor",
    embeddingSize: "embedding_dim",
    innerSize: "inter_dim",
    numHeads: "n_head",
    numLayers: "n_layer",
    contextTokens: "max_position_embeddings_predictor",
  },
} as const;

/** Reads the router of a Read-ME folder. */
export function parseRouterConfig(fields: Fields, model: RoutedModel, numExperts: number): RouterConfig {
  const ropeTheta = fields.positive("rope_theta", 10000);
  return { ...parseSizes(fields, ROUTER_FIELDS.own, model), vocabSize: model.vocabSize, numExperts, ropeTheta };
}

/** Reads the router of an official conversion from fields of the model's own config.json. */
export function parseOfficialRouterConfig(fields: Fields, model: RoutedModel, numExperts: number): RouterConfig {
  if (fields.boolean("nonautoregressive", false)) {
    fields.unsupported("nonautoregressive", "supported is the router with attention");
  }
  const ropeTheta = model.ropes[0]?.theta ?? 10000;
  return { ...parseSizes(fields, ROUTER_FIELDS.official, model), vocabSize: model.vocabSize, numExperts, ropeTheta };
}

function parseSizes(
  fields: Fields,
  names: (typeof ROUTER_FIELDS)[keyof typeof ROUTER_FIELDS],
  model: RoutedModel,
): Omit<RouterConfig, "vocabSize" | "numExperts" | "ropeTheta"> {
  if (fields.text(names.activation, "silu") !== "silu") fields.unsupported(names.activation, "supported is silu");
  const innerSize = fields.size(names.innerSize, MOST.width);
  const numHeads = fields.size(names.numHeads, MOST.heads);
  if (innerSize % (2 * numHeads) !== 0) {
    throw fields.invalid(`the router's width ${innerSize} does not divide into ${numHeads} heads of even size`);
  }
  return {
    embeddingSize: fields.size(names.embeddingSize, MOST.width),
    innerSize,
    numHeads,
    numLayers: fields.size(names.numLayers, MOST.layers),
    normalizer: fields.positive("normalizer", 1),
    // RoPE has no end, and the model can use no position beyond the router's.
    contextTokens: Math.max(fields.size(names.contextTokens, MOST.tokens, 4096), model.contextTokens),
  };
}

// Checkpoints that the paper's own code wrote: experts under `model.layers.{l}.moe.*`, one file for all.

/** The seven RedPajama domains, in the order of the paper's code. */
const PAPER_DOMAINS = ["arxiv", "book", "c4", "common_crawl", "github", "stackexchange", "wikipedia"] as const;

/** Tells whether a checkpoint was converted by the paper's code. */
export function isOfficialConversion(store: TensorStore): boolean {
  return store.has("model.layers.0.moe.gate_proj_0.weight");
}

/**
 * Finds the tensors of an official conversion. The experts' widths are those of the tensors: the conversion keeps one
 * row fewer than the config says. Residual rows that the checkpoint has as separate tensors become the shared rows.
 */
export function locateOfficial(
  store: TensorStore,
  config: ModelConfig,
  fields: Fields,
): { readonly experts: ExpertLayout; readonly weights: ModelWeights; readonly router: RouterWeights | undefined } {
  const numExperts = fields.size("N_cluster", MOST.routedExperts);
  const { hiddenSize } = config;
  const rows = (layer: number, which: string): number =>
    store.info(`model.layers.${layer}.moe.gate_proj_${which}.weight`).shape[0] ?? 0;
  const layers = Array.from({ length: config.numLayers }, (_, layer) => layer);
  const expertSizes = layers.map((layer) => rows(layer, "0"));
  const sharedSizes = layers.map((layer) =>
    store.has(`model.layers.${layer}.moe.gate_proj_residual.weight`) ? rows(layer, "residual") : 0,
  );
  const hasRouter = store.has("cluster_predictor.embed.weight");
  return {
    experts: {
      names: numExperts === PAPER_DOMAINS.length ? PAPER_DOMAINS : Array.from({ length: numExperts }, (_, e) => `${e}`),
      expertSizes,
      sharedSizes,
    },
    weights: locateWeights(store, config, (layer) => {
      const part = (which: string, size: number) =>
        feedForwardRefs(
          store,
          { prefix: `model.layers.${layer}.moe.`, suffix: `_${which}` },
          { size, hiddenSize, hasBias: "if present" },
        );
      const sharedSize = sharedSizes[layer] ?? 0;
      return {
        shared: sharedSize > 0 ? part("residual", sharedSize) : undefined,
        experts: Array.from({ length: numExperts }, (_, expert) => part(`${expert}`, expertSizes[layer] ?? 0)),
      };
    }),
    router: hasRouter
      ? locateRouter(store, "cluster_predictor.", parseOfficialRouterConfig(fields, config, numExperts))
      : undefined,
  };
}
