// The supported families of decoders, one entry each. Readers of config.json and of GGUF metadata share this table.

import {
  type Family,
  type FusedNames,
  type MixtureFields,
  type Multipliers,
  type NormNames,
  NORMS_BEFORE,
} from "./family.ts";
import { type Fields, MOST } from "./fields.ts";
import { gemmaLayers } from "./gemma-layers.ts";
import { DEEPSEEK, DEEPSEEK_V3, GLM_LITE } from "./latent.ts";
import { GATED_DELTA, GROUPED_DELTA, SHORT_CONVOLUTION, STATE_SPACE } from "./recurrence.ts";

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

const GRANITE_EXPERTS = { num_local_experts: 8, num_experts_per_tok: 2 };
const GRANITE_MIXTURE: MixtureFields = {
  expertSize: "intermediate_size",
  normalizesWeights: true,
  ggufNormalizesWeights: true,
};
/** Names of the part that all tokens use, and of the whole FFN where there are no experts. */
const GRANITE_SHARED: FusedNames = { gateUp: "shared_mlp.input_linear", down: "shared_mlp.output_linear" };
const GRANITE_ROWS = { sharedSize: "shared_intermediate_size" };
const GRANITE_WITH_SHARED: Family = {
  className: "GraniteMoeSharedForCausalLM",
  architecture: "granitemoe",
  hasPairedRows: true,
  norms: NORMS_BEFORE,
  fused: GRANITE_SHARED,
  multipliers: GRANITE_MULTIPLIERS,
  mixture: { ...GRANITE_MIXTURE, ...GRANITE_ROWS },
};

/** All layers have the window that the config names, if it names one. GGUF files say 0 for none. */
function plainWindow(fields: Fields): number | undefined {
  return fields.count("sliding_window") || undefined;
}

const OLMO_NORMS: NormNames = {
  attentionOutput: "post_attention_layernorm",
  ffnOutput: "post_feedforward_layernorm",
};

/** FFNs of LFM 2 are two thirds as wide as the config says, unless it says otherwise. */
function lfmSize(fields: Fields): number {
  const whole = fields.size(fields.has("block_ff_dim") ? "block_ff_dim" : "intermediate_size", MOST.width);
  if (!fields.boolean("block_auto_adjust_ff_dim", true)) return whole;
  const unit = fields.size("block_multiple_of", MOST.width, 256);
  return (
    Math.ceil(Math.floor(fields.positive("block_ffn_dim_multiplier", 1) * Math.floor((2 * whole) / 3)) / unit) * unit
  );
}

const LFM: Family = {
  className: "Lfm2ForCausalLM",
  architecture: "lfm2",
  norms: { attention: "operator_norm", ffn: "ffn_norm" },
  hasQkvBias: false,
  hasOutputBias: false,
  qkNorm: "head",
  epsilonField: "norm_eps",
  defaults: { norm_eps: 1e-5, rope_theta: 1e6, tie_word_embeddings: true, max_position_embeddings: 128_000 },
  ffnSize: lfmSize,
  renamed: {
    "feed_forward.w1.": "mlp.gate_proj.",
    "feed_forward.w2.": "mlp.down_proj.",
    "feed_forward.w3.": "mlp.up_proj.",
    "feed_forward.": "mlp.",
    "self_attn.out_proj.": "self_attn.o_proj.",
    "self_attn.q_layernorm.": "self_attn.q_norm.",
    "self_attn.k_layernorm.": "self_attn.k_norm.",
  },
  recurrence: SHORT_CONVOLUTION,
  unsupported: ["conv_bias"],
};

const QWEN_HYBRID: Family = {
  className: "Qwen3_5ForCausalLM",
  architecture: "qwen35",
  norms: NORMS_BEFORE,
  normOffset: 1,
  qkNorm: "head",
  gatesAttention: true,
  hasPartialRotary: true,
  recurrence: GATED_DELTA,
  defaults: {
    head_dim: 256,
    max_position_embeddings: 32_768,
    partial_rotary_factor: 0.25,
    linear_value_head_dim: 128,
  },
};

const QWEN_HYBRID_MIXTURE: MixtureFields = {
  expertSize: "moe_intermediate_size",
  normalizesWeights: "norm_topk_prob",
  ggufNormalizesWeights: true,
  hasDenseLayers: true,
  sharedSize: "shared_expert_intermediate_size",
};

const GEMMA = {
  norms: {
    attention: "input_layernorm",
    attentionOutput: "post_attention_layernorm",
    ffn: "pre_feedforward_layernorm",
    ffnOutput: "post_feedforward_layernorm",
  },
  normOffset: 1,
  activationField: "hidden_activation",
  defaults: {
    num_attention_heads: 8,
    num_key_value_heads: 4,
    head_dim: 256,
    hidden_activation: "gelu_pytorch_tanh",
    query_pre_attn_scalar: 256,
    sliding_window: 4096,
    tie_word_embeddings: true,
    bos_token_id: 2,
    eos_token_id: 1,
  },
  slidingWindow: (fields: Fields) => fields.size("sliding_window", MOST.integer),
  scalesEmbeddings: true,
  attentionScalar: "query_pre_attn_scalar",
  hasCaps: true,
} as const;

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
    norms: OLMO_NORMS,
    qkNorm: "all-heads",
    defaults: { rms_norm_eps: 1e-5 },
    unsupported: ["sliding_window"],
  },
  olmo3: {
    className: "Olmo3ForCausalLM",
    architecture: "olmo2",
    norms: OLMO_NORMS,
    qkNorm: "all-heads",
    // Every fourth layer sees all positions, in transformers and in llama.cpp; only these are scaled.
    defaults: { rms_norm_eps: 1e-5, sliding_window: 4096, sliding_window_pattern: 4 },
    slidingWindow: (fields) => fields.size("sliding_window", MOST.integer),
    alternation: { interval: "sliding_window_pattern", theta: "rope_theta" },
  },
  ministral3: {
    className: "Ministral3ForCausalLM",
    architecture: "mistral3",
    hasPairedRows: true,
    norms: NORMS_BEFORE,
    hasQkvBias: false,
    hasOutputBias: false,
    slidingWindow: plainWindow,
  },
  granite: {
    className: "GraniteForCausalLM",
    architecture: "granite",
    hasPairedRows: true,
    norms: NORMS_BEFORE,
    // Names in checkpoints of Granite 4; others have the products' own.
    fused: GRANITE_SHARED,
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
  gemma2: {
    ...GEMMA,
    className: "Gemma2ForCausalLM",
    architecture: "gemma2",
    defaults: {
      ...GEMMA.defaults,
      vocab_size: 256_000,
      sliding_window_pattern: 2,
      max_position_embeddings: 8192,
      attn_logit_softcapping: 50,
      final_logit_softcapping: 30,
    },
    alternation: { interval: "sliding_window_pattern" },
    ggufLargest: 46,
  },
  gemma3_text: {
    ...GEMMA,
    className: "Gemma3ForCausalLM",
    architecture: "gemma3",
    qkNorm: "head",
    // Configs of published models leave most fields out.
    defaults: {
      ...GEMMA.defaults,
      vocab_size: 262_208,
      sliding_window_pattern: 6,
      max_position_embeddings: 131_072,
      rope_theta: 1_000_000,
      rope_local_base_freq: 10_000,
    },
    alternation: { interval: "sliding_window_pattern", theta: "rope_local_base_freq" },
    // EmbeddingGemma.
    bothDirections: { field: "use_bidirectional_attention", architecture: "gemma-embedding" },
    ggufLargest: 62,
  },
  gemma4_text: {
    ...GEMMA,
    className: "Gemma4ForCausalLM",
    architecture: "gemma4",
    normOffset: 0,
    qkNorm: "head",
    normsValues: true,
    attentionScalar: 1,
    layerInputs: "hidden_size_per_layer_input",
    layerSizes: gemmaLayers,
    defaults: {
      ...GEMMA.defaults,
      vocab_size: 262_144,
      sliding_window: 512,
      sliding_window_pattern: 6,
      max_position_embeddings: 131_072,
      hidden_size_per_layer_input: 256,
      rope_local_base_freq: 10_000,
      rope_theta: 1_000_000,
      rope_parameters: {
        full_attention: { rope_type: "proportional", partial_rotary_factor: 0.25, rope_theta: 1_000_000 },
        sliding_attention: { rope_type: "default", rope_theta: 10_000 },
      },
    },
    alternation: { interval: "sliding_window_pattern", theta: "rope_local_base_freq" },
    renamed: { "router.proj.": "mlp.gate.", "router.": "mlp.gate.", "experts.": "mlp.experts." },
    mixture: {
      switchField: "enable_moe_block",
      countField: "num_experts",
      chosenField: "top_k_experts",
      expertSize: "moe_intermediate_size",
      normalizesWeights: true,
      ggufNormalizesWeights: true,
      sharedSize: "intermediate_size",
      hasOwnNorms: true,
    },
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
  qwen2_moe: {
    className: "Qwen2MoeForCausalLM",
    architecture: "qwen2moe",
    norms: NORMS_BEFORE,
    hasOutputBias: false,
    // Configs of Qwen1.5-MoE, which has no `qkv_bias`, have biases of queries, keys and values.
    defaults: { qkv_bias: true, num_local_experts: 60, num_experts_per_tok: 4 },
    qkvBiasField: "qkv_bias",
    mixture: {
      expertSize: "moe_intermediate_size",
      normalizesWeights: "norm_topk_prob",
      ggufNormalizesWeights: false,
      hasDenseLayers: true,
      sharedSize: "shared_expert_intermediate_size",
    },
    // As in qwen3_moe.
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
    defaults: GRANITE_EXPERTS,
    mixture: GRANITE_MIXTURE,
    unsupported: ["shared_intermediate_size"],
  },
  granitemoeshared: { ...GRANITE_WITH_SHARED, defaults: GRANITE_EXPERTS },
  granitemoehybrid: {
    ...GRANITE_WITH_SHARED,
    // llama.cpp's converter gives files whose layers all have attention to the families before.
    className: "GraniteMoeHybridForCausalLM",
    architecture: "granitehybrid",
    // Without experts its layers have the part that all tokens use alone.
    defaults: { num_experts_per_tok: 8, mamba_d_head: "auto" },
    ropeField: "position_embedding_type",
    recurrence: STATE_SPACE,
    mixture: { ...GRANITE_MIXTURE, ...GRANITE_ROWS, denseType: "granite" },
    unsupported: ["mamba_proj_bias"],
  },
  gpt_oss: {
    className: "GptOssForCausalLM",
    architecture: "gpt-oss",
    norms: NORMS_BEFORE,
    hasQkvBias: true,
    hasOutputBias: true,
    hasSinks: true,
    hasMxfp4: true,
    activation: "clamped",
    defaults: {
      head_dim: 64,
      sliding_window: 128,
      swiglu_limit: 7,
      swiglu_alpha: 1.702,
      rms_norm_eps: 1e-5,
      num_local_experts: 128,
      num_experts_per_tok: 4,
    },
    required: { swiglu_limit: 7, swiglu_alpha: 1.702 },
    slidingWindow: (fields) => fields.size("sliding_window", MOST.integer),
    ggufWindows: 2,
    ggufRope: { truncate: false },
    ggufEnds: ["<|call|>"],
    mixture: {
      expertSize: "intermediate_size",
      normalizesWeights: true,
      ggufNormalizesWeights: true,
      hasBiases: true,
    },
  },
  deepseek_v2: DEEPSEEK,
  deepseek_v3: DEEPSEEK_V3,
  glm4_moe_lite: GLM_LITE,
  lfm2: LFM,
  lfm2_moe: {
    ...LFM,
    className: "Lfm2MoeForCausalLM",
    architecture: "lfm2moe",
    ffnSize: undefined,
    defaults: { ...LFM.defaults, num_local_experts: 32, num_experts_per_tok: 4, norm_topk_prob: true },
    mixture: {
      expertSize: "moe_intermediate_size",
      normalizesWeights: "norm_topk_prob",
      ggufNormalizesWeights: true,
      hasSigmoids: true,
      scalesWeights: true,
      denseLayers: "num_dense_layers",
    },
  },
  qwen3_5_text: QWEN_HYBRID,
  qwen3_5_moe_text: {
    ...QWEN_HYBRID,
    className: "Qwen3_5MoeForCausalLM",
    architecture: "qwen35moe",
    defaults: { ...QWEN_HYBRID.defaults, norm_topk_prob: true, num_local_experts: 256, num_experts_per_tok: 8 },
    mixture: QWEN_HYBRID_MIXTURE,
  },
  qwen3_next: {
    ...QWEN_HYBRID,
    className: "Qwen3NextForCausalLM",
    architecture: "qwen3next",
    recurrence: GROUPED_DELTA,
    defaults: { ...QWEN_HYBRID.defaults, norm_topk_prob: true, num_local_experts: 512, num_experts_per_tok: 10 },
    mixture: QWEN_HYBRID_MIXTURE,
  },
};

/** Unsupported mixtures by `model_type`, and by `general.architecture`, with what they are. */
const REFUSED_MIXTURES: Readonly<Record<string, string>> = {
  deepseek: "a mixture whose first layers are dense",
  llama4: "a mixture with attention in chunks",
};

/** Says what a model of an unsupported family is, behind its name in messages; empty when that is not known. */
export function unsupportedKind(name: string): string {
  const kind = Object.hasOwn(REFUSED_MIXTURES, name) ? REFUSED_MIXTURES[name] : undefined;
  return kind === undefined ? "" : `, ${kind},`;
}

/** `model_type` of all supported families. */
export const MODEL_TYPES: readonly string[] = Object.keys(FAMILIES);

function architecturesOf({ architecture, bothDirections }: Family): readonly string[] {
  return bothDirections ? [architecture, bothDirections.architecture] : [architecture];
}

/** `general.architecture` of all supported families. */
export const ARCHITECTURES: readonly string[] = Array.from(new Set(Object.values(FAMILIES).flatMap(architecturesOf)));

/** Looks up a family. @throws {TypeError} for a `model_type` that no config can have */
export function familyOf(modelType: string): Family {
  const family = FAMILIES[modelType];
  if (family === undefined) throw new TypeError(`Expected the \`model_type\` of a family, got \`${modelType}\``);
  return family;
}

/** Properties of GGUF files in which Llama and Mixtral, OLMo 2 and 3, DeepSeek V2 and V3 differ. @default false */
type FileTraits = Partial<Record<"isMixture" | "hasShared" | "hasWindow" | "hasSigmoids", boolean>>;

/**
 * Finds the `model_type` that reads GGUF files of an architecture, which may be that of several families.
 *
 * @param traits - whether the file's layers have several experts, rows that all tokens use, windows, or sigmoids
 * @returns the family with most of these traits, the first of equal ones
 */
export function modelTypeOf(
  architecture: unknown,
  { isMixture = false, hasShared = false, hasWindow = false, hasSigmoids = false }: FileTraits = {},
): string | undefined {
  const names = MODEL_TYPES.filter((name) => architecturesOf(familyOf(name)).some((one) => one === architecture));
  const fit = (name: string): number => {
    const { mixture, alternation } = familyOf(name);
    const isAlike = [
      (mixture?.sharedSize !== undefined) === hasShared,
      (alternation !== undefined) === hasWindow,
      (mixture?.hasSigmoids ?? false) === hasSigmoids,
    ];
    return ((mixture !== undefined) === isMixture ? 4 : 0) + isAlike.filter(Boolean).length;
  };
  return names.toSorted((a, b) => fit(b) - fit(a))[0];
}
