// Reads a GGUF file's metadata into a ModelConfig. Its values are passed to the reader of config.json under that
// file's field names. A tied head, biases and RoPE factors follow from the tensors.

import { ReadMeError } from "@readme-moe/core";
import type { GgufTensorStore } from "../gguf/gguf-tensor-store.ts";
import { ARCHITECTURES, familyOf, modelTypeOf, type Multipliers, unsupportedKind } from "./families.ts";
import { ggufMixtureFields } from "./gguf-mixture.ts";
import type { ModelConfig } from "./model-config.ts";
import { parseConfig } from "./parse-config.ts";

/** Metadata keys, behind the architecture's name, by config.json's field. */
export const GGUF_KEYS: Readonly<Record<GgufField, string>> = {
  hidden_size: "embedding_length",
  intermediate_size: "feed_forward_length",
  num_hidden_layers: "block_count",
  num_attention_heads: "attention.head_count",
  rms_norm_eps: "attention.layer_norm_rms_epsilon",
  max_position_embeddings: "context_length",
};

type GgufField =
  | "hidden_size"
  | "intermediate_size"
  | "num_hidden_layers"
  | "num_attention_heads"
  | "rms_norm_eps"
  | "max_position_embeddings";

/** Metadata keys of a family's factors. */
export const GGUF_MULTIPLIER_KEYS: Readonly<Record<keyof Multipliers, string>> = {
  embedding: "embedding_scale",
  residual: "residual_scale",
  attention: "attention.scale",
  logits: "logit_scale",
};

/** Tensor with Llama 3's factors, one per pair of dimensions; converters compute them from the config's parameters. */
const ROPE_FACTORS = "rope_freqs.weight";

/**
 * Reads the config of an open GGUF file.
 *
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` naming an architecture, a key or a scaling that is not supported
 */
export async function ggufConfig(store: GgufTensorStore): Promise<ModelConfig> {
  const { metadata, path } = store.file;
  const unsupported = (what: string): ReadMeError => new ReadMeError("ERR_MODEL_UNSUPPORTED", `${path}: ${what}`);
  const architecture = metadata.get("general.architecture");
  const get = (key: string): unknown => metadata.get(`${String(architecture)}.${key}`);
  const isMixture = Number(get("expert_count") ?? 0) > 0;
  const modelType = modelTypeOf(architecture, isMixture);
  if (modelType === undefined) {
    const named = `\`${String(architecture)}\`${unsupportedKind(String(architecture))}`;
    throw unsupported(`the architecture ${named} is not supported; supported are ${ARCHITECTURES.join(", ")}`);
  }
  const { mixture, multipliers } = familyOf(modelType);
  if (isMixture && !mixture) {
    throw unsupported(`mixtures of experts of the architecture \`${String(architecture)}\` are not supported`);
  }
  // llama.cpp's models/granite.cpp: "Granite uses rope_finetuned as a switch for rope".
  if (multipliers !== undefined && get("rope.scaling.finetuned") === false) {
    throw unsupported("Granite without RoPE is not supported");
  }
  const heads = get("attention.head_count");
  const headSize = get("attention.key_length") ?? Number(get("embedding_length")) / Number(heads);
  const config = parseConfig(path, {
    model_type: modelType,
    ...Object.fromEntries(Object.entries(GGUF_KEYS).map(([field, key]) => [field, get(key)])),
    ...multiplierFields(multipliers, get, Number(headSize)),
    ...(mixture && ggufMixtureFields(mixture, path, get)),
    vocab_size: store.info("model.embed_tokens.weight").shape[0],
    num_key_value_heads: get("attention.head_count_kv") ?? heads,
    head_dim: headSize,
    rope_parameters: { rope_theta: get("rope.freq_base"), ...ropeScaling(get) },
    // Only read by families that refuse windows, such as OLMo 2.
    sliding_window: get("attention.sliding_window"),
    attention_bias: store.has("model.layers.0.self_attn.o_proj.bias"),
    mlp_bias: store.has("model.layers.0.mlp.gate_proj.bias"),
    tie_word_embeddings: !store.has("lm_head.weight"),
    bos_token_id: metadata.get("tokenizer.ggml.bos_token_id"),
    eos_token_id: ["eos", "eot", "eom"].flatMap((name) => metadata.get(`tokenizer.ggml.${name}_token_id`) ?? []),
  });
  const rotated = get("rope.dimension_count");
  if (rotated !== undefined && rotated !== config.headSize) {
    throw unsupported(`RoPE over ${Number(rotated)} of ${config.headSize} dimensions is not supported`);
  }
  if (!store.has(ROPE_FACTORS)) return config;
  const factors = Array.from(await store.readFloats(ROPE_FACTORS));
  if (factors.length !== config.headSize / 2 || !factors.every((factor) => factor > 0 && Number.isFinite(factor))) {
    const message = `${path}: expected tensor ${ROPE_FACTORS} to hold ${config.headSize / 2} positive numbers`;
    throw new ReadMeError("ERR_MODEL_INVALID", message);
  }
  return { ...config, rope: { type: "factors", theta: config.rope.theta, factors } };
}

/**
 * Reads factors as llama.cpp's models/granite.cpp does: 0 means the same as an absent key. Without a factor, attention
 * scores are divided by √headSize, while the default of config.json is 1.
 */
function multiplierFields(
  multipliers: Multipliers | undefined,
  get: (key: string) => unknown,
  headSize: number,
): object {
  if (!multipliers) return {};
  const factor = (role: keyof Multipliers): unknown => get(GGUF_MULTIPLIER_KEYS[role]) || undefined;
  return {
    [multipliers.embedding]: factor("embedding"),
    [multipliers.residual]: factor("residual"),
    [multipliers.attention]: factor("attention") ?? 1 / Math.sqrt(headSize),
    [multipliers.logits]: factor("logits"),
  };
}

function ropeScaling(get: (key: string) => unknown): object {
  const type = get("rope.scaling.type");
  // `rope.scale_linear` is the older spelling.
  const factor = get("rope.scaling.factor") ?? get("rope.scale_linear");
  if (type === undefined || type === "none") return factor === undefined ? {} : { rope_type: "linear", factor };
  return { rope_type: type, factor };
}
