import type { RopeConfig } from "./rope.ts";

/** The families that are supported. All are Llama's shape with small differences, each a field below. */
export type ModelType = "llama" | "mistral" | "qwen2" | "qwen3";

/** What a checkpoint's config says, in our words, with every default filled in and every value checked. */
export interface ModelConfig {
  readonly modelType: ModelType;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  /** Width of the dense FFN that the model has, or was made from. */
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headSize: number;
  readonly rmsNormEpsilon: number;
  readonly rope: RopeConfig;
  /** Positions that the model was made for; prompt and completion together stay within. */
  readonly contextTokens: number;
  /** Per layer: a query sees this many positions, its own included; `undefined` sees all. */
  readonly slidingWindows: readonly (number | undefined)[];
  readonly hasQkvBias: boolean;
  readonly hasOutputBias: boolean;
  readonly hasMlpBias: boolean;
  /** Queries and keys are normed per head before RoPE (Qwen3). */
  readonly hasQkNorm: boolean;
  /** The head is the embedding table. */
  readonly hasTiedEmbeddings: boolean;
  readonly bosTokenId: number | undefined;
  /** Any of these ends a completion. */
  readonly eosTokenIds: readonly number[];
}
