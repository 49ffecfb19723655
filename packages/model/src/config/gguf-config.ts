// A GGUF file's metadata -> ModelConfig. The fields are put under config.json's names and go through the same
// checks; what a GGUF says with tensors instead (tied head, biases, RoPE factors) is read off the tensors.

import { ReadMeError } from "@readme-moe/core";
import type { GgufTensorStore } from "../gguf/gguf-tensor-store.ts";
import type { ModelConfig } from "./model-config.ts";
import { parseConfig } from "./parse-config.ts";

/** @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` naming an architecture or a scaling that is not supported */
export async function ggufConfig(store: GgufTensorStore): Promise<ModelConfig> {
  const { metadata, path } = store.file;
  const architecture = metadata.get("general.architecture");
  if (architecture !== "llama" && architecture !== "qwen2" && architecture !== "qwen3") {
    const message = `${path}: the architecture \`${String(architecture)}\` is not supported; supported are llama, qwen2, qwen3`;
    throw new ReadMeError("ERR_MODEL_UNSUPPORTED", message);
  }
  const get = (key: string): unknown => metadata.get(`${architecture}.${key}`);
  if (Number(get("expert_count") ?? 0) > 0) {
    throw new ReadMeError("ERR_MODEL_UNSUPPORTED", `${path}: mixtures of experts in GGUF files are not supported`);
  }
  const heads = get("attention.head_count");
  const config = parseConfig(path, {
    model_type: architecture,
    vocab_size: store.info("model.embed_tokens.weight").shape[0],
    hidden_size: get("embedding_length"),
    intermediate_size: get("feed_forward_length"),
    num_hidden_layers: get("block_count"),
    num_attention_heads: heads,
    num_key_value_heads: get("attention.head_count_kv") ?? heads,
    head_dim: get("attention.key_length") ?? Number(get("embedding_length")) / Number(heads),
    rms_norm_eps: get("attention.layer_norm_rms_epsilon"),
    max_position_embeddings: get("context_length"),
    rope_parameters: { rope_theta: get("rope.freq_base"), ...ropeScaling(get) },
    attention_bias: store.has("model.layers.0.self_attn.o_proj.bias"),
    mlp_bias: store.has("model.layers.0.mlp.gate_proj.bias"),
    tie_word_embeddings: !store.has("lm_head.weight"),
    bos_token_id: metadata.get("tokenizer.ggml.bos_token_id"),
    eos_token_id: ["eos", "eot", "eom"].flatMap((name) => metadata.get(`tokenizer.ggml.${name}_token_id`) ?? []),
  });
  const rotated = get("rope.dimension_count");
  if (rotated !== undefined && rotated !== config.headSize) {
    const message = `${path}: RoPE over ${Number(rotated)} of ${config.headSize} dimensions is not supported`;
    throw new ReadMeError("ERR_MODEL_UNSUPPORTED", message);
  }
  if (!store.has(ROPE_FACTORS)) return config;
  const factors = Array.from(await store.readFloats(ROPE_FACTORS));
  if (factors.length !== config.headSize / 2 || !factors.every((factor) => factor > 0 && Number.isFinite(factor))) {
    const message = `${path}: expected tensor ${ROPE_FACTORS} to hold ${config.headSize / 2} positive numbers`;
    throw new ReadMeError("ERR_MODEL_INVALID", message);
  }
  return { ...config, rope: { type: "factors", theta: config.rope.theta, factors } };
}

/** Llama 3's factors, one per pair of dimensions; converters compute them from the config's parameters. */
const ROPE_FACTORS = "rope_freqs.weight";

function ropeScaling(get: (key: string) => unknown): object {
  const type = get("rope.scaling.type");
  // `rope.scale_linear` is the older spelling.
  const factor = get("rope.scaling.factor") ?? get("rope.scale_linear");
  if (type === undefined || type === "none") return factor === undefined ? {} : { rope_type: "linear", factor };
  return { rope_type: type, factor };
}
