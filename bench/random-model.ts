// A model of a given shape with random weights, for measuring speed.

import { crc32 } from "node:zlib";
import { encodeFloats, type Model, type ModelConfig, type TensorStore } from "@readme-moe/model";
import { parseConfig } from "../packages/model/src/config/parse-config.ts";

export interface Shape {
  readonly hiddenSize: number;
  /** Width of the dense FFN. */
  readonly ffnSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headSize: number;
  readonly vocabSize: number;
}

export const SMOLLM2_135M: Shape = {
  hiddenSize: 576,
  ffnSize: 1536,
  numLayers: 30,
  numHeads: 9,
  numKvHeads: 3,
  headSize: 64,
  vocabSize: 49_152,
};

export const SMOLLM2_360M: Shape = {
  hiddenSize: 960,
  ffnSize: 2560,
  numLayers: 32,
  numHeads: 15,
  numKvHeads: 5,
  headSize: 64,
  vocabSize: 49_152,
};

export const LLAMA_3B: Shape = {
  hiddenSize: 3072,
  ffnSize: 8192,
  numLayers: 28,
  numHeads: 24,
  numKvHeads: 8,
  headSize: 128,
  vocabSize: 128_256,
};

/**
 * Makes weights from a repeated short list of random numbers. Each tensor begins at another place: the runtime stores
 * equal constants once, and a model of equal layers would fit into a processor's caches.
 *
 * @param expertSize - width of each expert's FFN
 */
export function randomModel(shape: Shape, numExperts: number, expertSize: number): Model {
  const noise = Float32Array.from({ length: 65_521 }, (_, i) => 0.05 * Math.sin(i * i * 12.9898));
  const shapes = new Map<string, readonly number[]>();
  const readFloats: TensorStore["readFloats"] = async (name, rows) => {
    const [numRows = 1, ...rest] = shapes.get(name) ?? [];
    const size = rest.reduce((product, length) => product * length, 1);
    const { from, to } = rows ?? { from: 0, to: numRows };
    return filled(noise, crc32(name) + from * size, (to - from) * size);
  };
  const store: TensorStore = {
    path: "random",
    names: [],
    has: () => true,
    info: (name) => {
      const sizes = shapes.get(name) ?? [];
      return { name, type: "F32", shape: sizes, byteLength: sizes.reduce((product, length) => product * length, 4) };
    },
    readBytes: async (name, rows) => encodeFloats(await readFloats(name, rows), "F32"),
    readFloats,
    close: async () => undefined,
  };
  const tensor = (name: string, ...sizes: readonly number[]) => {
    shapes.set(name, sizes);
    return { store, name, shape: sizes };
  };
  const linear = (name: string, numOut: number, numIn: number) => ({
    weight: tensor(name, numOut, numIn),
    bias: undefined,
  });
  const { hiddenSize, numHeads, numKvHeads, headSize, vocabSize, numLayers } = shape;
  const embedding = tensor("embedding", vocabSize, hiddenSize);
  const layers = Array.from({ length: numLayers }, (_, layer) => ({
    attentionNorm: tensor(`${layer}.norm1`, hiddenSize),
    attention: {
      query: linear(`${layer}.q`, numHeads * headSize, hiddenSize),
      key: linear(`${layer}.k`, numKvHeads * headSize, hiddenSize),
      value: linear(`${layer}.v`, numKvHeads * headSize, hiddenSize),
      output: linear(`${layer}.o`, hiddenSize, numHeads * headSize),
      queryNorm: undefined,
      keyNorm: undefined,
    },
    attentionOutputNorm: undefined,
    ffnNorm: tensor(`${layer}.norm2`, hiddenSize),
    ffnOutputNorm: undefined,
    shared: undefined,
    experts: Array.from({ length: numExperts }, (__, expert) => ({
      gate: linear(`${layer}.${expert}.gate`, expertSize, hiddenSize),
      up: linear(`${layer}.${expert}.up`, expertSize, hiddenSize),
      down: linear(`${layer}.${expert}.down`, hiddenSize, expertSize),
    })),
  }));
  const sizes = (size: number): readonly number[] => Array.from({ length: numLayers }, () => size);
  return {
    path: "random",
    kind: "read-me",
    config: configOf(shape),
    experts: {
      names: Array.from({ length: numExperts }, (_, expert) => `expert-${expert}`),
      expertSizes: sizes(expertSize),
      sharedSizes: sizes(0),
    },
    weights: { embedding, layers, finalNorm: tensor("norm", hiddenSize), head: embedding },
    router: undefined,
    loraSet: undefined,
    files: [],
    fingerprint: async () => `random ${JSON.stringify({ ...shape, numExperts, expertSize })}`,
    samplingDefaults: () => ({}),
    loadText: () => Promise.reject(new Error("Random weights have no text")),
    close: async () => undefined,
  };
}

function configOf(shape: Shape): ModelConfig {
  return parseConfig("random", {
    model_type: "llama",
    vocab_size: shape.vocabSize,
    hidden_size: shape.hiddenSize,
    intermediate_size: shape.ffnSize,
    num_hidden_layers: shape.numLayers,
    num_attention_heads: shape.numHeads,
    num_key_value_heads: shape.numKvHeads,
    head_dim: shape.headSize,
    rms_norm_eps: 1e-5,
    rope_theta: 100_000,
    max_position_embeddings: 2048,
    tie_word_embeddings: true,
    bos_token_id: 0,
    eos_token_id: 0,
  });
}

/** Takes `length` numbers from `start` on of an endless repetition of `noise`. */
function filled(noise: Float32Array, start: number, length: number): Float32Array<ArrayBuffer> {
  const values = new Float32Array(length);
  for (let end = 0; end < length;) {
    const offset = (start + end) % noise.length;
    const piece = noise.subarray(offset, offset + length - end);
    values.set(piece, end);
    end += piece.length;
  }
  return values;
}
