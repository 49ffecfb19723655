import { invalid } from "../files/errors.ts";
import type { TensorStore } from "../tensor-store.ts";

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

/** The tensors of a layer's attention, or of what mixes tokens in its place. */
export interface AttentionRefs {
  readonly query: LinearRefs;
  /** Products of keys and values: those of `LayerConfig.keysOf` in a layer that reads another one's. */
  readonly key: LinearRefs;
  readonly value: LinearRefs;
  readonly output: LinearRefs;
  /** RMS norm scales of queries and keys: `[headSize]`, or of all heads together; see `ModelConfig.qkNorm`. */
  readonly queryNorm: TensorRef | undefined;
  readonly keyNorm: TensorRef | undefined;
  /** Product that gates outputs in front of `output`: `ModelConfig.gatesAttention`, or a recurrence's. */
  readonly gate?: LinearRefs | undefined;
  /** Scores `[numHeads]` that take weight from those of positions. @default none */
  readonly sinks?: TensorRef | undefined;
  /** @default attention */
  readonly recurrence?: RecurrenceRefs | undefined;
  /** Products that latent attention has besides; `value` is `key` then, and `keyNorm` `[latentSize]`. @default none */
  readonly latent?: LatentRefs | undefined;
}

/** The tensors of latent attention besides those of `AttentionRefs`. */
export interface LatentRefs {
  /** Product in front of `query`, and the norm of its outputs; `undefined` where queries are of the stream. */
  readonly queryLow: LinearRefs | undefined;
  readonly queryLowNorm: TensorRef | undefined;
  /** One per head: `[latentSize, plainSize]`. */
  readonly queries: readonly LinearRefs[];
  /** One per head: `[valueSize, latentSize]`. */
  readonly outputs: readonly LinearRefs[];
}

/** The tensors of a recurrence besides those of `AttentionRefs`; of a short convolution, the convolution alone. */
export interface RecurrenceRefs {
  /** `[channels, 1, numTaps]`, and `[channels]`. */
  readonly convolution: TensorRef;
  readonly convolutionBias: TensorRef | undefined;
  /** First channels of queries, keys and values in `convolution`. */
  readonly firstChannels: readonly [query: number, key: number, value: number];
  readonly strength: LinearRefs | undefined;
  readonly decay: LinearRefs | undefined;
  /** `ln(-rate)` of each head; biases of decays; and skips, all `[numValueHeads]`. */
  readonly rates: TensorRef | undefined;
  readonly rateBiases: TensorRef | undefined;
  readonly skips: TensorRef | undefined;
  readonly outputNorm: TensorRef | undefined;
}

/** FFN without a gate: `down(activation(up(x)))`. */
type PlainFeedForwardRefs = Pick<FeedForwardRefs, "up" | "down">;

/** Scales of a norm and, of a layer norm, perhaps its biases. */
export interface NormRef extends TensorRef {
  readonly bias?: TensorRef | undefined;
}

/** The tensors of a layer's mixture, whose router chooses some experts for each token. */
export interface MixtureRefs {
  /**
   * `[numExperts, hiddenSize]`, without bias, and perhaps a row more: the sigmoid of its product multiplies the outputs
   * of the part that all tokens use.
   */
  readonly router: TensorRef;
  /** `[numExperts]`: addends of logits. @default none */
  readonly routerBias?: TensorRef | undefined;
  /** `[numExperts]`: addends of sigmoids when experts are chosen. @default none */
  readonly biases?: TensorRef | undefined;
  /** One per expert, each `expertSize` rows. */
  readonly experts: readonly FeedForwardRefs[];
  /** `[numExperts]`: factors of the experts' weights. @default none */
  readonly expertScales?: TensorRef | undefined;
  /** Norms of what the router and experts read, and of both outputs in front of their sum. @default none */
  readonly norms?: { readonly input: NormRef; readonly sharedOutput: NormRef; readonly output: NormRef } | undefined;
}

/** The tensors of a layer. Norms are `[hiddenSize]`; those that the family does not have are `undefined`. */
export interface LayerRefs {
  readonly attentionNorm: NormRef | undefined;
  readonly attention: AttentionRefs;
  readonly attentionOutputNorm: NormRef | undefined;
  readonly ffnNorm: NormRef | undefined;
  /** FFN rows that every token uses; `undefined` if there are none. */
  readonly shared: FeedForwardRefs | undefined;
  /** One per expert of `ExpertLayout`; none in layers with `mixture`. */
  readonly experts: readonly FeedForwardRefs[];
  /** The whole FFN of a layer whose experts are chosen in the layer; `undefined` in other layers. */
  readonly mixture?: MixtureRefs | undefined;
  /** The whole FFN of an encoder's layer without a gate; `undefined` in other layers. */
  readonly plain?: PlainFeedForwardRefs | undefined;
  readonly ffnOutputNorm: NormRef | undefined;
  /** Products behind the FFN that read the layer's inputs: `[layerInputSize, hiddenSize]` and back. @default none */
  readonly input?: { readonly gate: LinearRefs; readonly output: LinearRefs; readonly outputNorm: NormRef } | undefined;
  /** `[1]`: factor of the residual stream behind the layer. @default none */
  readonly streamScale?: TensorRef | undefined;
}

/** The tensors of all layers' inputs. */
export interface LayerInputsRefs {
  /** `[vocabSize, numLayers * layerInputSize]`. */
  readonly table: TensorRef;
  /** `[numLayers * layerInputSize, hiddenSize]`. */
  readonly projection: LinearRefs;
  /** `[layerInputSize]`. */
  readonly norm: TensorRef;
}

/** The tensors that encoders have besides. */
export interface EncoderRefs {
  /** `[positions, hiddenSize]`, from position 0 on. */
  readonly positions: TensorRef | undefined;
  readonly segments: TensorRef | undefined; // [numSegments, hiddenSize]
  readonly distances: TensorRef | undefined; // [numDistanceBuckets, numHeads]
  readonly embeddingNorm: NormRef;
  /** Layers from a state to logits of labels, of models that classify; else none. */
  readonly classifier: readonly ClassifierRefs[];
  /** Layers from a state to logits of all tokens, of checkpoints that fill masks; else none. */
  readonly masked: readonly ClassifierRefs[];
}

/** `norm(activation(x · weightᵀ + bias))` of a state; an absent part changes nothing. */
export interface ClassifierRefs extends LinearRefs {
  readonly activation: "tanh" | "relu" | "gelu" | undefined;
  readonly norm: NormRef | undefined;
}

/** Location of every weight of a model, whatever files it came in. */
export interface ModelWeights {
  readonly embedding: TensorRef; // [vocabSize, hiddenSize]
  readonly layers: readonly LayerRefs[];
  /** `[hiddenSize]`; of an encoder with norms behind its sums, that of the last layer. */
  readonly finalNorm: NormRef;
  /**
   * `[vocabSize, hiddenSize]`; the embedding itself if the two are tied. Of a model that gives scores, the rows of
   * these, `[1 or 2, hiddenSize]`; of one that gives embeddings, nothing reads it.
   */
  readonly head: TensorRef;
  /** @default layers have no inputs of their own */
  readonly layerInputs?: LayerInputsRefs | undefined;
  /** @default a decoder's weights */
  readonly encoder?: EncoderRefs | undefined;
  /** Layers from a state to an embedding (`EmbeddingConfig.dense`). @default none */
  readonly dense?: readonly ClassifierRefs[] | undefined;
  /** @default the checkpoint has no layer that predicts a further token */
  readonly next?: NextLayerRefs | undefined;
}

/** The tensors of a layer that predicts one token more (MTP), from a state of the model and the token behind it. */
export interface NextLayerRefs {
  /** `[hiddenSize, 2 * hiddenSize]`: takes the token's normed embedding, and then the normed state. */
  readonly fusion: LinearRefs;
  readonly tokenNorm: TensorRef;
  readonly stateNorm: TensorRef;
  /** A layer with attention, of `nextLayerConfig`. */
  readonly layer: LayerRefs;
  readonly finalNorm: TensorRef;
}

/**
 * Number and widths of a model's experts. A dense model is one expert of full width. So is a mixture whose routers are
 * in its layers, since nothing outside them chooses.
 */
export interface ExpertLayout {
  /** One name per expert, such as the domain that it was made from; all different. */
  readonly names: readonly string[];
  /** FFN rows of each expert, per layer; in layers with a mixture those that a token uses. */
  readonly expertSizes: readonly number[];
  /** FFN rows that every token uses besides, per layer; 0 for none. */
  readonly sharedSizes: readonly number[];
}

/** One tensor of one store that exists with this shape. Nothing is read yet. */
export interface TensorRef {
  readonly store: TensorStore;
  readonly name: string;
  readonly shape: readonly number[];
}

/**
 * Finds a tensor.
 *
 * @param shape - the shape that follows from the config
 * @throws {ReadMeError} `ERR_MODEL_INVALID` naming file and tensor, when it is missing or has another shape
 */
export function tensorRef(store: TensorStore, name: string, shape: readonly number[]): TensorRef {
  const actual = store.info(name).shape;
  if (actual.length !== shape.length || actual.some((size, axis) => size !== shape[axis])) {
    throw invalid(
      store.path,
      `tensor ${name} has shape [${actual.join(", ")}], the config promises [${shape.join(", ")}]`,
    );
  }
  return { store, name, shape };
}

/** Whether a product has a bias; `"if present"` leaves it to the checkpoint. */
export type HasBias = boolean | "if present";

export interface LinearShape {
  readonly outSize: number;
  readonly inSize: number;
  readonly hasBias: HasBias;
}

/** Finds `prefix` with `.weight` `[outSize, inSize]` and, if it has one, `.bias` `[outSize]`. */
export function linearRefs(store: TensorStore, prefix: string, { outSize, inSize, hasBias }: LinearShape): LinearRefs {
  const withBias = hasBias === "if present" ? store.has(`${prefix}.bias`) : hasBias;
  return {
    weight: tensorRef(store, `${prefix}.weight`, [outSize, inSize]),
    bias: withBias ? tensorRef(store, `${prefix}.bias`, [outSize]) : undefined,
  };
}

/** Precision of products. Everything between them is float32. */
export type Precision = "fp32" | "int8" | "int4" | "file";
