import type { Fields } from "../config/fields.ts";
import type { ModelConfig } from "../config/model-config.ts";
import { MOST } from "../config/bounds.ts";
import type { TensorStore } from "../tensor-store.ts";
import { linearRefs } from "./backbone.ts";
import { tableRef } from "./byte-rows.ts";
import type { LinearRefs } from "./model-weights.ts";
import { tensorRef, type TensorRef } from "./tensor-ref.ts";

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

/**
 * Extends a router's context to its model's: RoPE has no end, and the model can use no position beyond the router's.
 */
function reach(contextTokens: number, model: RoutedModel): number {
  return Math.max(contextTokens, model.contextTokens);
}

/** Reads the router of a Read-ME folder: the section `readme.router` of config.json. */
export function parseRouterConfig(fields: Fields, model: RoutedModel, numExperts: number): RouterConfig {
  const activation = fields.text("activation", "silu");
  if (activation !== "silu") fields.unsupported("activation", "supported is silu");
  const config = {
    vocabSize: model.vocabSize,
    numExperts,
    embeddingSize: fields.size("embedding_size", MOST.width),
    innerSize: fields.size("inner_size", MOST.width),
    numHeads: fields.size("num_heads", MOST.heads),
    numLayers: fields.size("num_layers", MOST.layers),
    normalizer: fields.positive("normalizer", 1),
    ropeTheta: fields.positive("rope_theta", 10000),
    contextTokens: reach(fields.size("context_tokens", MOST.tokens, 4096), model),
  };
  checkHeads(fields, config);
  return config;
}

/** Reads the router of an official conversion from fields of the model's own config.json. */
export function parseOfficialRouterConfig(fields: Fields, model: RoutedModel, numExperts: number): RouterConfig {
  const activation = fields.text("hidden_act_predictor", "silu");
  if (activation !== "silu") fields.unsupported("hidden_act_predictor", "supported is silu");
  if (fields.boolean("nonautoregressive", false)) {
    fields.unsupported("nonautoregressive", "supported is the router with attention");
  }
  const config = {
    vocabSize: model.vocabSize,
    numExperts,
    embeddingSize: fields.size("embedding_dim", MOST.width),
    innerSize: fields.size("inter_dim", MOST.width),
    numHeads: fields.size("n_head", MOST.heads),
    numLayers: fields.size("n_layer", MOST.layers),
    normalizer: fields.positive("normalizer", 1),
    ropeTheta: model.ropes[0]?.theta ?? 10000,
    contextTokens: reach(fields.size("max_position_embeddings_predictor", MOST.tokens, 4096), model),
  };
  checkHeads(fields, config);
  return config;
}

function checkHeads(fields: Fields, { innerSize, numHeads }: RouterConfig): void {
  if (innerSize % numHeads === 0 && (innerSize / numHeads) % 2 === 0) return;
  throw fields.invalid(`the router's width ${innerSize} does not divide into ${numHeads} heads of even size`);
}
