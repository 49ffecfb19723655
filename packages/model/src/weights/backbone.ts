// What all layouts have in common: embeddings, attention, norms and head under Hugging Face names.

import type { ModelConfig } from "../config/model-config.ts";
import type { TensorStore } from "../tensor-store.ts";
import type { AttentionRefs, FeedForwardRefs, LayerRefs, LinearRefs, ModelWeights } from "./model-weights.ts";
import { tensorRef, type TensorRef } from "./tensor-ref.ts";

/** Where a layer's FFN rows are; the only part in which the layouts differ. */
export type LocateFeedForward = (layer: number) => Pick<LayerRefs, "shared" | "experts">;

/** @throws {ReadMeError} `ERR_MODEL_INVALID` naming the first tensor that is missing or misshapen */
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
      inputNorm: tensorRef(store, `model.layers.${layer}.input_layernorm.weight`, [hiddenSize]),
      attention: locateAttention(store, config, `model.layers.${layer}.self_attn`),
      postAttentionNorm: tensorRef(store, `model.layers.${layer}.post_attention_layernorm.weight`, [hiddenSize]),
      ...locateFeedForward(layer),
    })),
    finalNorm: tensorRef(store, "model.norm.weight", [hiddenSize]),
    head: config.hasTiedEmbeddings ? embedding : tensorRef(store, "lm_head.weight", [vocabSize, hiddenSize]),
  };
}

function locateAttention(store: TensorStore, config: ModelConfig, prefix: string): AttentionRefs {
  const { hiddenSize, headSize, hasQkvBias, hasOutputBias } = config;
  const querySize = config.numHeads * headSize;
  const keySize = config.numKvHeads * headSize;
  const norm = (name: string): TensorRef | undefined =>
    config.hasQkNorm ? tensorRef(store, `${prefix}.${name}.weight`, [headSize]) : undefined;
  return {
    query: linearRefs(store, `${prefix}.q_proj`, querySize, hiddenSize, hasQkvBias),
    key: linearRefs(store, `${prefix}.k_proj`, keySize, hiddenSize, hasQkvBias),
    value: linearRefs(store, `${prefix}.v_proj`, keySize, hiddenSize, hasQkvBias),
    output: linearRefs(store, `${prefix}.o_proj`, hiddenSize, querySize, hasOutputBias),
    queryNorm: norm("q_norm"),
    keyNorm: norm("k_norm"),
  };
}

/** Does a product have a bias: `true`, `false`, or where the checkpoint has the tensor. */
type HasBias = boolean | "if present";

/** `prefix` with `.weight` `[outSize, inSize]` and, where there is one, `.bias` `[outSize]`. */
export function linearRefs(
  store: TensorStore,
  prefix: string,
  outSize: number,
  inSize: number,
  hasBias: HasBias,
): LinearRefs {
  const withBias = hasBias === "if present" ? store.has(`${prefix}.bias`) : hasBias;
  return {
    weight: tensorRef(store, `${prefix}.weight`, [outSize, inSize]),
    bias: withBias ? tensorRef(store, `${prefix}.bias`, [outSize]) : undefined,
  };
}

/** An FFN of `size` rows; `prefix` and `suffix` surround `gate_proj`, `up_proj` and `down_proj`. */
export function feedForwardRefs(
  store: TensorStore,
  { prefix, suffix = "" }: { readonly prefix: string; readonly suffix?: string },
  size: number,
  hiddenSize: number,
  hasBias: HasBias,
): FeedForwardRefs {
  return {
    gate: linearRefs(store, `${prefix}gate_proj${suffix}`, size, hiddenSize, hasBias),
    up: linearRefs(store, `${prefix}up_proj${suffix}`, size, hiddenSize, hasBias),
    down: linearRefs(store, `${prefix}down_proj${suffix}`, hiddenSize, size, hasBias),
  };
}
