import type { TensorRef } from "./tensor-ref.ts";

/** `y = x · weightᵀ + bias`; weight `[out, in]`, bias `[out]`. */
export interface LinearRefs {
  readonly weight: TensorRef;
  readonly bias: TensorRef | undefined;
}

/** `down(activation(gate(x)) · up(x))`. */
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
  /** RMS norm scales of queries and keys: `[headSize]`, or of all heads together; see `ModelConfig.qkNorm`. */
  readonly queryNorm: TensorRef | undefined;
  readonly keyNorm: TensorRef | undefined;
}

/** The tensors of a layer. Norms are `[hiddenSize]`; those that the family does not have are `undefined`. */
export interface LayerRefs {
  readonly attentionNorm: TensorRef | undefined;
  readonly attention: AttentionRefs;
  readonly attentionOutputNorm: TensorRef | undefined;
  readonly ffnNorm: TensorRef | undefined;
  /** FFN rows that every token uses; `undefined` if there are none. */
  readonly shared: FeedForwardRefs | undefined;
  /** One per expert. */
  readonly experts: readonly FeedForwardRefs[];
  readonly ffnOutputNorm: TensorRef | undefined;
}

/** Location of every weight of a model, whatever files it came in. */
export interface ModelWeights {
  readonly embedding: TensorRef; // [vocabSize, hiddenSize]
  readonly layers: readonly LayerRefs[];
  readonly finalNorm: TensorRef; // [hiddenSize]
  /** `[vocabSize, hiddenSize]`; the embedding itself if the two are tied. */
  readonly head: TensorRef;
}

/** Number and widths of a model's experts. A dense model is one expert of full width. */
export interface ExpertLayout {
  /** One name per expert, such as the domain that it was made from; all different. */
  readonly names: readonly string[];
  /** FFN rows of each expert, per layer. */
  readonly expertSizes: readonly number[];
  /** FFN rows that every token uses besides, per layer; 0 for none. */
  readonly sharedSizes: readonly number[];
}
