import type { NormNames, QkNorm } from "./families.ts";
import type { RopeConfig } from "./rope.ts";

/** Function of an FFN's gate. A further one needs code in the graphs of @readme-moe/onnx and @readme-moe/refactor. */
export type Activation = "silu";

/**
 * Description of a decoder as plain data, with all defaults filled in and all values checked. The kernel, the graphs of
 * refactoring and tuning, and exports are all built from it.
 */
export interface ModelConfig {
  /** Name of the family, as in config.json. */
  readonly modelType: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  /** Width of the dense FFN that the model has, or was made from. */
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headSize: number;
  /** Names of each layer's norms; families without one leave its name out. */
  readonly norms: NormNames;
  readonly rmsNormEpsilon: number;
  /** Norm of queries and keys before RoPE: over each head (Qwen 3), over all heads (OLMo 2), or none. */
  readonly qkNorm: QkNorm | undefined;
  readonly activation: Activation;
  readonly rope: RopeConfig;
  /** Per layer: whether queries and keys are rotated by `rope`; at least one layer's are. */
  readonly hasRope: readonly boolean[];
  /** Positions that the model was made for; prompt and completion together stay within. */
  readonly contextTokens: number;
  /** Per layer: number of positions that a query sees, its own included; `undefined` sees all. */
  readonly slidingWindows: readonly (number | undefined)[];
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
}
