// Properties in which families of decoders differ.

import { type Fields, MOST } from "./fields.ts";

/**
 * Tensor names of a layer's norms, behind `model.layers.N.`. A norm without a name is one that the family does not
 * have. Output norms are applied to what attention or the FFN adds to the residual stream.
 */
export interface NormNames {
  readonly attention?: string;
  readonly attentionOutput?: string;
  readonly ffn?: string;
  readonly ffnOutput?: string;
}

/** Rows that one norm of queries and keys is taken over: each head, or all heads together. */
export type QkNorm = "head" | "all-heads";

/** Names, behind `model.layers.N.`, of tensors with the rows of several products, one product after the other. */
export interface FusedNames {
  /** Query, key and value. @default each has a tensor of its own */
  readonly qkv?: string;
  readonly gateUp: string;
  /** Down-projection, where its name is another than Llama's. */
  readonly down?: string;
}

/** Properties of one family. Absent ones are Llama's. */
export interface Family {
  /** Class in transformers, for the config.json of an export. */
  readonly className: string;
  /** `general.architecture` of GGUF files. Of families with the same one, the first reads the file. */
  readonly architecture: string;
  /**
   * Whether GGUF files order the rows of queries and keys by rotary pairs. They do if `llama_model_rope_type` in
   * llama.cpp's src/llama-model.cpp returns `LLAMA_ROPE_TYPE_NORM` for the architecture, not `LLAMA_ROPE_TYPE_NEOX`.
   *
   * @default false
   */
  readonly hasPairedRows?: boolean;
  readonly norms: NormNames;
  /** @default each product has a tensor of its own */
  readonly fused?: FusedNames;
  /**
   * Number that is added to the stored scales of all norms. In GGUF files it is added already.
   *
   * @default 0
   */
  readonly normOffset?: number;
  /** Config field that names the function of an FFN's gate. @default "hidden_act" */
  readonly activationField?: string;
  /** @default queries and keys have no norm */
  readonly qkNorm?: QkNorm;
  /** @default the config's `attention_bias` */
  readonly hasQkvBias?: boolean;
  /** Field of the config that has this in place of `attention_bias`. */
  readonly qkvBiasField?: string;
  /** @default the config's `attention_bias` */
  readonly hasOutputBias?: boolean;
  /** Values of config fields that are absent or `null`, by name, where they differ from Llama's. */
  readonly defaults?: Readonly<Record<string, unknown>>;
  /** Reads the window that the config names, before `layer_types` restricts it to some layers. @default no window */
  readonly slidingWindow?: (fields: Fields) => number | undefined;
  /** Whether the config's `partial_rotary_factor` counts. @default false: factors other than 1 are refused */
  readonly hasPartialRotary?: boolean;
  /** Further names of RoPE types: the type by its other name. @default none */
  readonly ropeTypeNames?: Readonly<Record<string, string>>;
  /** Config fields that leave RoPE out in some layers. @default all layers have RoPE */
  readonly ropeLayers?: RopeLayers;
  /** Marks of models whose tokens see later ones too, within half of a window on each side. @default there are none */
  readonly bothDirections?: BothDirections;
  /** Config fields of layers that alternate between a window and all positions. @default layers do not alternate */
  readonly alternation?: Alternation;
  /** Whether embeddings are multiplied by √hiddenSize. @default false */
  readonly scalesEmbeddings?: boolean;
  /** Config field whose inverse square root is the factor of attention scores. @default the head size is used */
  readonly attentionScalar?: string;
  /**
   * Config fields with factors; each is 1 when absent.
   *
   * @default Llama's: no factors, attention scores times 1 / √headSize
   */
  readonly multipliers?: Multipliers;
  /** Reading of the mixture that the family's layers are. @default layers have one FFN */
  readonly mixture?: MixtureFields;
  /** Config fields that have to have these values. @default none */
  readonly required?: Readonly<Record<string, unknown>>;
  /**
   * Config fields that change the computation in a way that is not supported. A config with one of them is refused,
   * unless its value is `null`, `false` or 0.
   *
   * @default none
   */
  readonly unsupported?: readonly string[];
}

/** Config fields of a mixture whose router is in its layers, where families differ. */
export interface MixtureFields {
  /** Field with the rows of one expert. */
  readonly expertSize: "intermediate_size" | "moe_intermediate_size";
  /** Whether the weights of a token's experts sum to 1; `norm_topk_prob` in config.json says so. */
  readonly normalizesWeights: true | "norm_topk_prob";
  /** The same for GGUF files, which do not say it: an argument of `build_moe_ffn` in llama.cpp's src/models. */
  readonly ggufNormalizesWeights: boolean;
  /**
   * Whether `decoder_sparse_step` and `mlp_only_layers` may name layers with one FFN of `intermediate_size` rows.
   *
   * @default false
   */
  readonly hasDenseLayers?: boolean;
  /** Field with the rows that all tokens use besides. @default there are none */
  readonly sharedSize?: string;
  /** Family of models without experts, whose layers have the part that all tokens use alone. @default refused */
  readonly denseType?: string;
}

/** Marks in files of models whose tokens see later ones too. */
interface BothDirections {
  /** Config field that is true. */
  readonly field: string;
  /** `general.architecture` of their GGUF files. */
  readonly architecture: string;
}

/** Names of the config fields that say which layers have RoPE. */
interface RopeLayers {
  /** Field with one number per layer: 1 with RoPE, 0 without, whatever its name suggests. */
  readonly list: string;
  /** Field with n, when there is no list: every n-th layer has no RoPE. It needs a value in `defaults`. */
  readonly interval: string;
}

/** Names of the config fields of layers that alternate between a window and all positions. */
export interface Alternation {
  /** Field with n, without `layer_types`: every n-th layer sees all positions. It needs a value in `defaults`. */
  readonly interval: string;
  /** Field with RoPE's base in layers with the window, which is never scaled. It needs a value in `defaults`. */
  readonly theta: string;
}

/** Names of the config fields with a model's factors. */
export interface Multipliers {
  /** Factor of embeddings. */
  readonly embedding: string;
  /** Factor of what attention and FFN add to the residual stream. */
  readonly residual: string;
  /** Factor of attention scores. */
  readonly attention: string;
  /** Divisor of logits. */
  readonly logits: string;
}

/** Llama's norms. */
export const NORMS_BEFORE: NormNames = { attention: "input_layernorm", ffn: "post_attention_layernorm" };

// The supported families of decoders, one entry each. Readers of config.json and of GGUF metadata share this table.

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
    // EmbeddingGemma.
    bothDirections: { field: "use_bidirectional_attention", architecture: "gemma-embedding" },
    // Gemma 2 has them.
    unsupported: ["attn_logit_softcapping", "final_logit_softcapping"],
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
    // llama.cpp's converter names files whose layers all have attention like those of the families before.
    className: "GraniteMoeHybridForCausalLM",
    // Layers without attention, which `layer_types` names, have no RoPE either.
    required: { position_embedding_type: "rope" },
    mixture: { ...GRANITE_MIXTURE, ...GRANITE_ROWS, denseType: "granite" },
  },
};

const LATENT_ATTENTION = "a mixture with latent attention";

/** Unsupported mixtures by `model_type`, and by `general.architecture`, with what they are. */
const REFUSED_MIXTURES: Readonly<Record<string, string>> = {
  granitehybrid: "a model with layers without attention",
  deepseek: "a mixture whose first layers are dense",
  deepseek_v2: LATENT_ATTENTION,
  deepseek_v3: LATENT_ATTENTION,
  deepseek2: LATENT_ATTENTION,
  llama4: "a mixture with attention in chunks",
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

/**
 * Finds the `model_type` that reads GGUF files of an architecture. One architecture may have several: Llama's and
 * Mixtral's files differ in `expert_count`, those of OLMo 2 and 3 in the window.
 *
 * @param traits - whether the file's layers have several experts, rows that all tokens use besides, or windows
 * @returns the family with most of these traits, the first of equal ones
 */
export function modelTypeOf(
  architecture: unknown,
  {
    isMixture = false,
    hasShared = false,
    hasWindow = false,
  }: Partial<Record<"isMixture" | "hasShared" | "hasWindow", boolean>> = {},
): string | undefined {
  const names = MODEL_TYPES.filter((name) => architecturesOf(familyOf(name)).some((one) => one === architecture));
  const fit = (name: string): number => {
    const { mixture, alternation } = familyOf(name);
    const isAlike = [(mixture?.sharedSize !== undefined) === hasShared, (alternation !== undefined) === hasWindow];
    return ((mixture !== undefined) === isMixture ? 4 : 0) + isAlike.filter(Boolean).length;
  };
  return names.toSorted((a, b) => fit(b) - fit(a))[0];
}
