// The supported families of decoders, one entry each. Readers of config.json and of GGUF metadata share this table.

import type { Fields } from "./fields.ts";

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
  /** Query, key and value. */
  readonly qkv: string;
  /** Gate and up. */
  readonly gateUp: string;
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
  /** @default queries and keys have no norm */
  readonly qkNorm?: QkNorm;
  /** @default the config's `attention_bias` */
  readonly hasQkvBias?: boolean;
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
  /**
   * Config fields with factors; each is 1 when absent.
   *
   * @default Llama's: no factors, attention scores times 1 / √headSize
   */
  readonly multipliers?: Multipliers;
  /**
   * Config fields that change the computation in a way that is not supported. A config with one of them is refused,
   * unless its value is `null`, `false` or 0.
   *
   * @default none
   */
  readonly unsupported?: readonly string[];
}

/** Names of the config fields that say which layers have RoPE. */
interface RopeLayers {
  /** Field with one number per layer: 1 with RoPE, 0 without, whatever its name suggests. */
  readonly list: string;
  /** Field with n, when there is no list: every n-th layer has no RoPE. It needs a value in `defaults`. */
  readonly interval: string;
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

function optionalWindow(fields: Fields): number | undefined {
  return fields.boolean("use_sliding_window", false) ? fields.size("sliding_window", 4096) : undefined;
}

/** An absent window is Mistral's default of 4,096; `null` means that there is none. */
function mistralWindow(fields: Fields): number | undefined {
  return fields.isNull("sliding_window") ? undefined : fields.size("sliding_window", 4096);
}

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
    multipliers: {
      embedding: "embedding_multiplier",
      residual: "residual_multiplier",
      attention: "attention_multiplier",
      logits: "logits_scaling",
    },
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
};

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

/** Finds the `model_type` that reads GGUF files of an architecture. */
export function modelTypeOf(architecture: unknown): string | undefined {
  return MODEL_TYPES.find((name) => familyOf(name).architecture === architecture);
}
