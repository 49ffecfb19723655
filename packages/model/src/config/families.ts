// The supported families of decoders, one entry each. Readers of config.json and of GGUF metadata share this table.

import { type Family, type Multipliers, NORMS_BEFORE } from "./family.ts";
import type { Fields } from "./fields.ts";
import { MOST } from "./bounds.ts";

function optionalWindow(fields: Fields): number | undefined {
  return fields.boolean("use_sliding_window", false) ? fields.size("sliding_window", MOST.integer, 4096) : undefined;
}

/** An absent window is Mistral's default of 4,096; `null` means that there is none. */
function mistralWindow(fields: Fields): number | undefined {
  return fields.isNull("sliding_window") ? undefined : fields.size("sliding_window", MOST.integer, 4096);
}

const GRANITE_MULTIPLIERS: Multipliers = {
  embedding: "embedding_multiplier",
  residual: "residual_multiplier",
  attention: "attention_multiplier",
  logits: "logits_scaling",
};

/** All layers have the window that the config names, if it names one. GGUF files say 0 for none. */
function plainWindow(fields: Fields): number | undefined {
  return fields.count("sliding_window") || undefined;
}

const FAMILIES: Readonly<Record<string, Family>> = {
  llama: { className: "LlamaForCausalLM", architecture: "llama", hasPairedRows: true, norms: NORMS_BEFORE },
  mistral: {
    className: "MistralForCausalLM",
    architecture: "llama",
    hasPairedRows: true,
    norms: NORMS_BEFORE,
    hasQkvBias: false,
    hasOutputBias: false,
    slidingWindow: mistralWindow,
  },
  qwen2: {
    className: "Qwen2ForCausalLM",
    architecture: "qwen2",
    norms: NORMS_BEFORE,
    hasQkvBias: true,
    hasOutputBias: false,
    slidingWindow: optionalWindow,
  },
  qwen3: {
    className: "Qwen3ForCausalLM",
    architecture: "qwen3",
    norms: NORMS_BEFORE,
    qkNorm: "head",
    defaults: { head_dim: 128 },
    slidingWindow: optionalWindow,
  },
  olmo2: {
    className: "Olmo2ForCausalLM",
    architecture: "olmo2",
    norms: { attentionOutput: "post_attention_layernorm", ffnOutput: "post_feedforward_layernorm" },
    qkNorm: "all-heads",
    defaults: { rms_norm_eps: 1e-5 },
    // OLMo 3 has windows; its GGUF files have the architecture of OLMo 2.
    unsupported: ["sliding_window"],
  },
  granite: {
    className: "GraniteForCausalLM",
    architecture: "granite",
    hasPairedRows: true,
    norms: NORMS_BEFORE,
    multipliers: GRANITE_MULTIPLIERS,
  },
  smollm3: {
    className: "SmolLM3ForCausalLM",
    architecture: "smollm3",
    hasPairedRows: true,
    norms: NORMS_BEFORE,
    // GGUF files have no interval: llama.cpp sets `n_no_rope_layer_step = 4` in src/models/smollm3.cpp.
    defaults: { tie_word_embeddings: true, no_rope_layer_interval: 4 },
    ropeLayers: { list: "no_rope_layers", interval: "no_rope_layer_interval" },
    // Which layers have a window would depend on `no_rope_layers`; no published model has one.
    unsupported: ["use_sliding_window"],
  },
  gemma3_text: {
    className: "Gemma3ForCausalLM",
    architecture: "gemma3",
    norms: {
      attention: "input_layernorm",
      attentionOutput: "post_attention_layernorm",
      ffn: "pre_feedforward_layernorm",
      ffnOutput: "post_feedforward_layernorm",
    },
    normOffset: 1,
    activationField: "hidden_activation",
    qkNorm: "head",
    // Configs of published models leave most fields out.
    defaults: {
      vocab_size: 262_208,
      num_attention_heads: 8,
      num_key_value_heads: 4,
      head_dim: 256,
      hidden_activation: "gelu_pytorch_tanh",
      query_pre_attn_scalar: 256,
      max_position_embeddings: 131_072,
      sliding_window: 4096,
      sliding_window_pattern: 6,
      rope_theta: 1_000_000,
      rope_local_base_freq: 10_000,
      tie_word_embeddings: true,
      bos_token_id: 2,
      eos_token_id: 1,
    },
    slidingWindow: (fields) => fields.size("sliding_window", MOST.integer),
    alternation: { interval: "sliding_window_pattern", theta: "rope_local_base_freq" },
    scalesEmbeddings: true,
    attentionScalar: "query_pre_attn_scalar",
    // Gemma 2 has the first two, EmbeddingGemma the last one.
    unsupported: ["attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention"],
  },
  phi3: {
    className: "Phi3ForCausalLM",
    architecture: "phi3",
    norms: NORMS_BEFORE,
    fused: { qkv: "self_attn.qkv_proj", gateUp: "mlp.gate_up_proj" },
    hasQkvBias: false,
    hasOutputBias: false,
    defaults: { rms_norm_eps: 1e-5, max_position_embeddings: 4096, original_max_position_embeddings: 4096 },
    slidingWindow: plainWindow,
    hasPartialRotary: true,
    // Names of the first checkpoints, which transformers reads as longrope.
    ropeTypeNames: { su: "longrope", yarn: "longrope" },
  },
  mixtral: {
    className: "MixtralForCausalLM",
    architecture: "llama",
    hasPairedRows: true,
    norms: NORMS_BEFORE,
    hasQkvBias: false,
    hasOutputBias: false,
    defaults: { rms_norm_eps: 1e-5, rope_theta: 1e6, num_local_experts: 8, num_experts_per_tok: 2 },
    slidingWindow: (fields) => (fields.has("sliding_window") ? fields.size("sliding_window", MOST.integer) : undefined),
    mixture: { expertSize: "intermediate_size", normalizesWeights: true, ggufNormalizesWeights: true },
  },
  qwen3_moe: {
    className: "Qwen3MoeForCausalLM",
    architecture: "qwen3moe",
    norms: NORMS_BEFORE,
    qkNorm: "head",
    defaults: { num_local_experts: 128, num_experts_per_tok: 8, moe_intermediate_size: 768 },
    mixture: {
      expertSize: "moe_intermediate_size",
      normalizesWeights: "norm_topk_prob",
      ggufNormalizesWeights: true,
      hasDenseLayers: true,
    },
    // All layers would have the window, whatever `max_window_layers` says; no published model has one.
    unsupported: ["use_sliding_window"],
  },
  olmoe: {
    className: "OlmoeForCausalLM",
    architecture: "olmoe",
    norms: NORMS_BEFORE,
    qkNorm: "all-heads",
    defaults: { rms_norm_eps: 1e-5, num_local_experts: 64, num_experts_per_tok: 8 },
    mixture: { expertSize: "intermediate_size", normalizesWeights: "norm_topk_prob", ggufNormalizesWeights: false },
    unsupported: ["clip_qkv"],
  },
  granitemoe: {
    className: "GraniteMoeForCausalLM",
    architecture: "granitemoe",
    hasPairedRows: true,
    norms: NORMS_BEFORE,
    multipliers: GRANITE_MULTIPLIERS,
    defaults: { num_local_experts: 8, num_experts_per_tok: 2 },
    mixture: { expertSize: "intermediate_size", normalizesWeights: true, ggufNormalizesWeights: true },
    unsupported: ["shared_intermediate_size"],
  },
};

const SHARED_EXPERTS = "a mixture with experts that all tokens use besides those that they choose";

/** Unsupported mixtures by `model_type`, and by `general.architecture`, with what they are. */
const REFUSED_MIXTURES: Readonly<Record<string, string>> = {
  granitemoeshared: SHARED_EXPERTS,
  granitemoehybrid: `${SHARED_EXPERTS}, with layers without attention`,
  granitehybrid: `${SHARED_EXPERTS}, with layers without attention`,
  qwen2_moe: SHARED_EXPERTS,
  qwen2moe: SHARED_EXPERTS,
  deepseek: SHARED_EXPERTS,
  deepseek_v2: SHARED_EXPERTS,
  deepseek_v3: SHARED_EXPERTS,
  deepseek2: SHARED_EXPERTS,
  llama4: SHARED_EXPERTS,
  gpt_oss: "a mixture with clamped activations and attention sinks",
  "gpt-oss": "a mixture with clamped activations and attention sinks",
};

/** Says what a model of an unsupported family is, behind its name in messages; empty when that is not known. */
export function unsupportedKind(name: string): string {
  const kind = Object.hasOwn(REFUSED_MIXTURES, name) ? REFUSED_MIXTURES[name] : undefined;
  return kind === undefined ? "" : `, ${kind},`;
}

/** `model_type` of all supported families. */
export const MODEL_TYPES: readonly string[] = Object.keys(FAMILIES);

/** `general.architecture` of all supported families. */
export const ARCHITECTURES: readonly string[] = Array.from(
  new Set(Object.values(FAMILIES).map(({ architecture }) => architecture)),
);

/** Looks up a family. @throws {TypeError} for a `model_type` that no config can have */
export function familyOf(modelType: string): Family {
  const family = FAMILIES[modelType];
  if (family === undefined) throw new TypeError(`Expected the \`model_type\` of a family, got \`${modelType}\``);
  return family;
}

/**
 * Finds the `model_type` that reads GGUF files of an architecture. One architecture may have two: Llama's and Mixtral's
 * files differ in `expert_count`.
 *
 * @param isMixture - whether the file's layers have several experts
 * @returns a family without a mixture for one with, and the other way round, if the architecture has no better
 */
export function modelTypeOf(architecture: unknown, isMixture = false): string | undefined {
  const names = MODEL_TYPES.filter((name) => familyOf(name).architecture === architecture);
  return names.find((name) => (familyOf(name).mixture !== undefined) === isMixture) ?? names[0];
}
