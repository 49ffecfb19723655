// The parts that all layouts have in common: embeddings, attention, norms and head under Hugging Face names. A dense
// checkpoint is the simplest layout.

import { ReadMeError } from "@readme-moe/core";
import type { ModelConfig } from "../config/model-config.ts";
import type { TensorStore } from "../tensor-store.ts";
import type {
  AttentionRefs,
  ExpertLayout,
  FeedForwardRefs,
  LayerRefs,
  LinearRefs,
  ModelWeights,
} from "./model-weights.ts";
import { selectRows } from "./selected-rows.ts";
import { splitFused } from "./tensor-parts.ts";
import { tensorRef, type TensorRef } from "./tensor-ref.ts";

/** Name of the only expert of a dense model. */
export const DENSE_NAME = "dense";

/** Finds a layer's FFN rows, the only part in which layouts differ. */
export type LocateFeedForward = (layer: number) => Pick<LayerRefs, "shared" | "experts" | "mixture">;

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
  const { vocabSize, hiddenSize, norms } = config;
  const embedding = tensorRef(store, "model.embed_tokens.weight", [vocabSize, hiddenSize]);
  const norm = (layer: number, name: string | undefined): TensorRef | undefined =>
    name === undefined ? undefined : tensorRef(store, `model.layers.${layer}.${name}.weight`, [hiddenSize]);
  return {
    embedding,
    layers: Array.from({ length: config.numLayers }, (_, layer) => ({
      attentionNorm: norm(layer, norms.attention),
      attention: locateAttention(store, config, `model.layers.${layer}.self_attn`),
      attentionOutputNorm: norm(layer, norms.attentionOutput),
      ffnNorm: norm(layer, norms.ffn),
      ...locateFeedForward(layer),
      ffnOutputNorm: norm(layer, norms.ffnOutput),
    })),
    finalNorm: tensorRef(store, "model.norm.weight", [hiddenSize]),
    head: locateHead(store, config, embedding),
  };
}

function locateHead(
  store: TensorStore,
  { vocabSize, hiddenSize, hasTiedEmbeddings, pooling }: ModelConfig,
  embedding: TensorRef,
): TensorRef {
  if (pooling?.kind === "embedding") {
    if (hiddenSize <= vocabSize) return embedding;
    // The head is packed as a square of this width, which the file has to outweigh.
    const sizes = `${hiddenSize} dimensions of ${vocabSize} tokens`;
    throw new ReadMeError("ERR_MODEL_INVALID", `${store.path}: makes embeddings of ${sizes}, more than tokens`);
  }
  if (pooling && "tensor" in pooling.head) {
    const { tensor, numRows, rows } = pooling.head;
    return selectRows(tensorRef(store, tensor, [numRows, hiddenSize]), rows);
  }
  const head = hasTiedEmbeddings ? embedding : tensorRef(store, "lm_head.weight", [vocabSize, hiddenSize]);
  if (!pooling || !("tokenIds" in pooling.head)) return head;
  const { tokenIds } = pooling.head;
  const unknown = tokenIds.find((id) => id >= vocabSize);
  if (unknown === undefined) return selectRows(head, tokenIds);
  const message = `${store.path}: the score is of token ${unknown}, the model has ${vocabSize} tokens`;
  throw new ReadMeError("ERR_MODEL_INVALID", message);
}

/** Finds the tensors of a dense checkpoint, which is one expert without a router. */
export function locateDense(
  checkpoint: TensorStore,
  config: ModelConfig,
): { readonly experts: ExpertLayout; readonly weights: ModelWeights } {
  const { intermediateSize, hiddenSize, hasMlpBias: hasBias, numLayers } = config;
  const store = splitFused(checkpoint, config);
  return {
    experts: {
      names: [DENSE_NAME],
      expertSizes: Array.from({ length: numLayers }, () => intermediateSize),
      sharedSizes: Array.from({ length: numLayers }, () => 0),
    },
    weights: locateWeights(store, config, (layer) => {
      const place = { prefix: `model.layers.${layer}.mlp.` };
      const ffn = feedForwardRefs(store, place, { size: intermediateSize, hiddenSize, hasBias });
      return { shared: undefined, experts: [ffn] };
    }),
  };
}

function locateAttention(store: TensorStore, config: ModelConfig, prefix: string): AttentionRefs {
  const { hiddenSize, headSize, hasQkvBias, hasOutputBias, qkNorm } = config;
  const querySize = config.numHeads * headSize;
  const keySize = config.numKvHeads * headSize;
  const linear = (name: string, outSize: number, inSize: number, hasBias: boolean): LinearRefs =>
    linearRefs(store, `${prefix}.${name}`, { outSize, inSize, hasBias });
  const norm = (name: string, allHeads: number): TensorRef | undefined =>
    qkNorm && tensorRef(store, `${prefix}.${name}.weight`, [qkNorm === "head" ? headSize : allHeads]);
  return {
    query: linear("q_proj", querySize, hiddenSize, hasQkvBias),
    key: linear("k_proj", keySize, hiddenSize, hasQkvBias),
    value: linear("v_proj", keySize, hiddenSize, hasQkvBias),
    output: linear("o_proj", hiddenSize, querySize, hasOutputBias),
    queryNorm: norm("q_norm", querySize),
    keyNorm: norm("k_norm", keySize),
  };
}

/** Whether a product has a bias; `"if present"` leaves it to the checkpoint. */
type HasBias = boolean | "if present";

interface LinearShape {
  readonly outSize: number;
  readonly inSize: number;
  readonly hasBias: HasBias;
}

/** Finds `prefix` with `.weight` `[outSize, inSize]` and, if it has one, `.bias` `[outSize]`. */
export function linearRefs(store: TensorStore, prefix: string, { outSize, inSize, hasBias }: LinearShape): LinearRefs {
  const withBias = hasBias === "if present" ? store.has(`${prefix}.bias`) : hasBias;
  return {
    weight: tensorRef(store, `${prefix}.weight`, [outSize, inSize]),
    bias: withBias ? tensorRef(store, `${prefix}.bias`, [outSize]) : undefined,
  };
}

/** Finds an FFN of `size` rows; `prefix` and `suffix` surround `gate_proj`, `up_proj` and `down_proj`. */
export function feedForwardRefs(
  store: TensorStore,
  { prefix, suffix = "" }: { readonly prefix: string; readonly suffix?: string },
  { size, hiddenSize, hasBias }: { readonly size: number; readonly hiddenSize: number; readonly hasBias: HasBias },
): FeedForwardRefs {
  const inner = { outSize: size, inSize: hiddenSize, hasBias };
  return {
    gate: linearRefs(store, `${prefix}gate_proj${suffix}`, inner),
    up: linearRefs(store, `${prefix}up_proj${suffix}`, inner),
    down: linearRefs(store, `${prefix}down_proj${suffix}`, { outSize: hiddenSize, inSize: size, hasBias }),
  };
}
