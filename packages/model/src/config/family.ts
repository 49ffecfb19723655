// Properties in which families of decoders differ.

import type { Fields } from "./fields.ts";
import type { RecurrenceFields } from "./recurrence.ts";

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

/** Sizes in which layers of some models differ. */
export interface LayerSizes {
  /** Heads of keys and values, and their size, which is that of queries. @default the model's */
  readonly heads?: { readonly numKvHeads: number; readonly headSize: number } | undefined;
  /** Earlier layer whose keys and values attention reads; the layer has none. @default its own */
  readonly keysOf?: number | undefined;
  /** Whether values are what keys are made from. @default false: they have a product of their own */
  readonly keysAreValues?: boolean | undefined;
  /** Rows of the layer's FFN. @default `intermediateSize` */
  readonly ffnSize?: number | undefined;
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
  /** Layers with a recurrence in place of attention. @default all have attention */
  readonly recurrence?: RecurrenceFields;
  /** Whether the rows of `q_proj` are those of a head's query, then of a gate of its outputs. @default false */
  readonly gatesAttention?: boolean;
  /** Reads properties of layers that the config has for some of them. @default none */
  readonly layerSizes?: (fields: Fields, windows: readonly (number | undefined)[]) => readonly LayerSizes[];
  /** Config field with the number of inputs that each layer has beside the stream. @default there are none */
  readonly layerInputs?: string;
  /** Whether heads of values are normed, and layers have a factor of the stream. @default false */
  readonly normsValues?: boolean;
  /** Beginnings of tensors' names behind `model.layers.N.`, the first that fits, by Llama's in their place. */
  readonly renamed?: Readonly<Record<string, string>>;
  /** Config field of the norms' epsilon. @default "rms_norm_eps" */
  readonly epsilonField?: string;
  /** Reads the width of the FFN, where another field has it. @default "intermediate_size" */
  readonly ffnSize?: ((fields: Fields) => number) | undefined;
  /** Function of experts' gates, where the config does not name it. */
  readonly activation?: "clamped";
  /** Whether attention is latent: `LatentConfig`. @default false */
  readonly isLatent?: boolean;
  /** Whether heads of attention have scores that take weight from those of positions. @default false */
  readonly hasSinks?: boolean;
  /** Whether checkpoints may hold experts in MXFP4, as `quant_method` "mxfp4" says. @default false */
  readonly hasMxfp4?: boolean;
  /** Every n-th layer of GGUF files sees all positions, others the window, in families whose configs list layers. */
  readonly ggufWindows?: number;
  /** Number of layers of the family's largest model, whose attention GGUF files scale by other than the head's size. */
  readonly ggufLargest?: number;
  /** Parameters of RoPE that GGUF files do not name. */
  readonly ggufRope?: Readonly<Record<string, unknown>>;
  /** Tokens that end a completion beside the end of text, whatever others GGUF files name. @default those */
  readonly ggufEnds?: readonly string[];
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
  /** Config field that says "nope" for models without RoPE. @default all have it */
  readonly ropeField?: string;
  /** Config fields that leave RoPE out in some layers. @default all layers have RoPE */
  readonly ropeLayers?: RopeLayers;
  /** Marks of models whose tokens see later ones too, within half of a window on each side. @default there are none */
  readonly bothDirections?: BothDirections;
  /** Config fields of layers that alternate between a window and all positions. @default layers do not alternate */
  readonly alternation?: Alternation;
  /** Whether configs bound scores and logits; without it such fields are refused. @default false */
  readonly hasCaps?: boolean;
  /** Whether embeddings are multiplied by √hiddenSize. @default false */
  readonly scalesEmbeddings?: boolean;
  /** Number whose inverse square root is the factor of scores, or its config field. @default the head size */
  readonly attentionScalar?: string | number;
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
  /** Whether the router's and experts' products have biases. @default false */
  readonly hasBiases?: boolean;
  /** Whether weights are sigmoids. @default false: a softmax */
  readonly hasSigmoids?: boolean;
  /** Field with the number of first layers that have one FFN of `intermediate_size` rows. @default none */
  readonly denseLayers?: string;
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
  /** Field with these rows as a multiple of an expert's. @default there are none */
  readonly sharedExperts?: string;
  /** Field of the number of experts, where it has a name of the family's own. */
  readonly countField?: string;
  /** Field of the number of experts that a token uses, where it has a name of the family's own. */
  readonly chosenField?: string;
  /** Field without which layers have one FFN. @default all are mixtures */
  readonly switchField?: string;
  /** See `MixtureConfig`. @default false */
  readonly hasOwnNorms?: boolean;
  /** Whether `routed_scaling_factor` multiplies weights. @default false */
  readonly scalesWeights?: boolean;
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
  /**
   * Field with RoPE's base in layers with the window, which is never scaled. It needs a value in `defaults`.
   * @default all layers have the same angles
   */
  readonly theta?: string;
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
