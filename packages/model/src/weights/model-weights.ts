import type { TensorRef } from "./tensor-ref.ts";

/** `y = x · weightᵀ + bias`; weight `[out, in]`, bias `[out]`. */
export interface LinearRefs {
  readonly weight: TensorRef;
  readonly bias: TensorRef | undefined;
}

/** `down(silu(gate(x)) · up(x))`. */
export interface FeedForwardRefs {
  readonly gate: LinearRefs;
  readonly up: LinearRefs;
  readonly down: LinearRefs;
}

/** The tensors of a layer's attention. */
export interface AttentionRefs {
  readonly query: LinearRefs;
  readonly key: LinearRefs;
  readonly value: LinearRefs;
  readonly output: LinearRefs;
  /** RMS norm scales of each head's query and key, `[headSize]` (Qwen3). */
  readonly queryNorm: TensorRef | undefined;
  readonly keyNorm: TensorRef | undefined;
}

export interface LayerRefs {
  readonly inputNorm: TensorRef; // [hiddenSize]
  readonly attention: AttentionRefs;
  readonly postAttentionNorm: TensorRef; // [hiddenSize]
  /** The rows that every token uses; `undefined` where there are none. */
  readonly shared: FeedForwardRefs | undefined;
  /** One per expert. */
  readonly experts: readonly FeedForwardRefs[];
}

/** Where every weight of a model is, whatever files it came in. */
export interface ModelWeights {
  readonly embedding: TensorRef; // [vocabSize, hiddenSize]
  readonly layers: readonly LayerRefs[];
  readonly finalNorm: TensorRef; // [hiddenSize]
  /** `[vocabSize, hiddenSize]`; the embedding itself where the two are tied. */
  readonly head: TensorRef;
}

/** How many experts a model has and how wide they are. A dense model is one expert of full width. */
export interface ExpertLayout {
  /** One name per expert, such as the domain that it was made from; all different. */
  readonly names: readonly string[];
  /** FFN rows of each expert, per layer. */
  readonly expertSizes: readonly number[];
  /** FFN rows that every token uses besides, per layer; 0 where there are none. */
  readonly sharedSizes: readonly number[];
}
