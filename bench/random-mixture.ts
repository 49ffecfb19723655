// A mixture with a router in every layer, of a given shape with random weights, for measuring speed. The embeddings of
// tokens of one topic can be alike, so that texts which keep their topic keep some of their experts.

import { crc32 } from "node:zlib";
import type { Model } from "@readme-moe/model";
import { parseConfig } from "../packages/model/src/config/parse-config.ts";
import { randomModel, type Shape } from "./random-model.ts";

export interface MixtureShape extends Shape {
  readonly numExperts: number;
  readonly expertsPerToken: number;
  readonly expertSize: number;
}

/** OLMoE's shape (16 layers, hidden size 2048, 8 of 64 experts of 1024 rows), cut to 805 MB of experts in int8. */
export const SMALL_OLMOE: MixtureShape = {
  hiddenSize: 1024,
  ffnSize: 1024,
  numLayers: 8,
  numHeads: 16,
  numKvHeads: 4,
  headSize: 64,
  vocabSize: 8192,
  numExperts: 32,
  expertsPerToken: 4,
  expertSize: 1024,
};

/** How alike tokens of one topic are. */
export interface Topics {
  /** Token `id` belongs to topic `id % count`. */
  readonly count: number;
  /** Share of an embedding's variance that its topic decides, in [0, 1]. */
  readonly share: number;
}

/** Makes a mixture. @param topics - without them, embeddings are independent */
export function randomMixture(shape: MixtureShape, topics: Topics = { count: 1, share: 0 }): Model {
  const base = randomModel(shape, shape.numExperts, shape.expertSize);
  const { weights } = base;
  const embedding = { ...weights.embedding, store: withTopics(weights.embedding.store, topics) };
  return {
    ...base,
    kind: "mixture",
    config: mixtureConfig(shape),
    experts: { ...base.experts, names: ["mixture"] },
    weights: {
      ...weights,
      embedding,
      head: embedding,
      layers: weights.layers.map((layer, index) => ({
        ...layer,
        experts: [],
        mixture: { router: routerOf(shape, index), experts: layer.experts },
      })),
    },
    fingerprint: async () => `random mixture ${JSON.stringify({ ...shape, topics })}`,
  };
}

type TensorRef = Model["weights"]["embedding"];

/** Makes a router of independent weights, which prefers no expert. */
function routerOf({ numExperts, hiddenSize }: MixtureShape, layer: number): TensorRef {
  const shape = [numExperts, hiddenSize];
  const values = noise(`router ${layer}`, numExperts * hiddenSize);
  const store: TensorRef["store"] = {
    path: "random",
    names: [],
    has: () => true,
    info: (name) => ({ name, type: "F32", shape, byteLength: 0 }),
    readBytes: () => Promise.reject(new Error("Random weights have no stored bytes")),
    readFloats: async (_name, rows) =>
      values.slice((rows?.from ?? 0) * hiddenSize, (rows?.to ?? numExperts) * hiddenSize),
    close: async () => undefined,
  };
  return { store, name: `${layer}.router`, shape };
}

/** Size of embeddings. What layers add is small beside it; it has much in common for all tokens with these weights. */
const EMBEDDING_SCALE = 50;

/** Mixes each row of a table with its topic's row. Both have the same variance. */
function withTopics(store: TensorRef["store"], { count, share }: Topics): TensorRef["store"] {
  return {
    ...store,
    readFloats: async (name, rows) => {
      const [numRows = 1, size = 1] = store.info(name).shape;
      const { from, to } = rows ?? { from: 0, to: numRows };
      const mixed = new Float32Array((to - from) * size);
      for (let row = from; row < to; row++) {
        const own = noise(`row ${row}`, size);
        const common = noise(`topic ${row % count}`, size);
        for (let at = 0; at < size; at++) {
          mixed[(row - from) * size + at] =
            EMBEDDING_SCALE * (Math.sqrt(1 - share) * (own[at] ?? 0) + Math.sqrt(share) * (common[at] ?? 0));
        }
      }
      return mixed;
    },
  };
}

/** Draws numbers of mean 0 that are independent for each name. */
function noise(name: string, length: number): Float32Array<ArrayBuffer> {
  let state = crc32(name) | 1;
  return Float32Array.from({ length }, () => {
    state = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d);
    state = Math.imul(state ^ (state >>> 12), 0x297a2d39) + 0x6d2b79f5;
    return ((state >>> 8) / 2 ** 24 - 0.5) / 10;
  });
}

function mixtureConfig(shape: MixtureShape): Model["config"] {
  return parseConfig("random", {
    model_type: "mixtral",
    vocab_size: shape.vocabSize,
    hidden_size: shape.hiddenSize,
    intermediate_size: shape.expertSize,
    num_hidden_layers: shape.numLayers,
    num_attention_heads: shape.numHeads,
    num_key_value_heads: shape.numKvHeads,
    head_dim: shape.headSize,
    num_local_experts: shape.numExperts,
    num_experts_per_tok: shape.expertsPerToken,
    rms_norm_eps: 1e-5,
    rope_theta: 100_000,
    max_position_embeddings: 2048,
    tie_word_embeddings: true,
    bos_token_id: 0,
    eos_token_id: 0,
  });
}
