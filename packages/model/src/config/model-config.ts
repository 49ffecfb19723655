import type { NormNames, QkNorm } from "./family.ts";
import type { PoolingConfig } from "./pooling.ts";
import type { RopeConfig } from "./rope.ts";

/** Function of an FFN's gate. A further one needs code in the graphs of @readme-moe/refactor. */
export type Activation = "silu" | "gelu-tanh";

/**
 * Properties in which layers of one model differ. Graphs are shared by layers whose properties are all equal, so that a
 * further property needs no change where graphs are shared.
 */
export interface LayerConfig {
  /** Number of positions that a query sees, its own included; `undefined` sees all. */
  readonly slidingWindow: number | undefined;
  /** Index in `ropes` of the angles that queries and keys are rotated by; `undefined` without RoPE. */
  readonly angleSet: number | undefined;
  /** Whether the layer's FFN is a mixture of experts that its own router chooses: `ModelConfig.mixture`. */
  readonly isMixture: boolean;
}

/** Mixture of experts with a router in each of its layers, unlike Read-ME's, whose experts are known beforehand. */
export interface MixtureConfig {
  /** Experts of a layer, from 1 to 1,024. */
  readonly numExperts: number;
  /** Experts that a token uses in a layer, at most `numExperts` and 64. */
  readonly expertsPerToken: number;
  /** FFN rows of one expert. */
  readonly expertSize: number;
  /**
   * Whether the weights of a token's experts sum to 1. They are the softmax of all router logits otherwise, of which
   * the chosen ones sum to less.
   */
  readonly normalizesWeights: boolean;
}

/**
 * Description of a decoder as plain data, with all defaults filled in and all values checked. The kernel, the graphs of
 * refactoring and tuning, and exports are all built from it.
 */
export interface ModelConfig {
  /** Name of the family, as in config.json. */
  readonly modelType: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  /** Width of the dense FFN that the model has, or was made from; of a mixture's layers that are dense. */
  readonly intermediateSize: number;
  /** Experts of the layers with `isMixture`, which at least one is; `undefined` in all other models. */
  readonly mixture?: MixtureConfig | undefined;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headSize: number;
  /** Number of a head's dimensions that RoPE rotates, from its first one; even, and `headSize` in most models. */
  readonly rotatedSize: number;
  /** Names of each layer's norms; families without one leave its name out. */
  readonly norms: NormNames;
  /** Number that is added to the stored scales of all norms: 1 where checkpoints hold differences from 1, else 0. */
  readonly normOffset: number;
  readonly rmsNormEpsilon: number;
  /** Norm of queries and keys before RoPE: over each head (Qwen 3), over all heads (OLMo 2), or none. */
  readonly qkNorm: QkNorm | undefined;
  readonly activation: Activation;
  /** Sets of angles, at least one, all different; each is used by a layer. */
  readonly ropes: readonly RopeConfig[];
  /** Positions that the model was made for; prompt and completion together stay within. */
  readonly contextTokens: number;
  /** One per layer; at least one layer has RoPE. */
  readonly layers: readonly LayerConfig[];
  /** Factor of embeddings. */
  readonly embeddingScale: number;
  /** Factor of what attention and FFN add to the residual stream. */
  readonly residualScale: number;
  /** Factor of attention scores before the softmax. */
  readonly attentionScale: number;
  /** Factor of logits. */
  readonly logitScale: number;
  readonly hasQkvBias: boolean;
  readonly hasOutputBias: boolean;
  readonly hasMlpBias: boolean;
  /** Whether the head is the embedding table. */
  readonly hasTiedEmbeddings: boolean;
  readonly bosTokenId: number | undefined;
  /** Any of these ends a completion. */
  readonly eosTokenIds: readonly number[];
  /** Result for a whole text, of models that were made for one; `undefined` for models that generate. */
  readonly pooling?: PoolingConfig | undefined;
}

/** Finds the properties of one layer. @throws {RangeError} for a layer that the model does not have */
export function layerConfig({ layers }: ModelConfig, index: number): LayerConfig {
  const layer = layers[index];
  if (layer === undefined) throw new RangeError(`Expected the index of one of ${layers.length} layers, got ${index}`);
  return layer;
}
