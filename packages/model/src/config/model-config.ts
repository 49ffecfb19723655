import type { LayerSizes, NormNames, QkNorm } from "./family.ts";
import { type Fields, MOST } from "./fields.ts";
import type { RecurrenceConfig } from "./recurrence.ts";

/**
 * Function of an FFN's gate, or of an FFN without one. Exact "gelu" is encoders' alone, "clamped" that of mixtures:
 * `(1 + up) gate sigmoid(1.702 gate)`, gates at most 7 and up within 7 of 0.
 */
export type Activation = "silu" | "gelu-tanh" | "gelu" | "clamped";

/**
 * Properties in which layers of one model differ. Graphs are shared by layers whose properties are all equal, so that a
 * further property needs no change where graphs are shared.
 */
export interface LayerConfig extends LayerSizes {
  /** Number of positions that a query sees, its own included; `undefined` sees all. */
  readonly slidingWindow: number | undefined;
  /** Index in `ropes` of the angles that queries and keys are rotated by; `undefined` without RoPE. */
  readonly angleSet: number | undefined;
  /** Whether the layer's FFN is a mixture of experts that its own router chooses: `ModelConfig.mixture`. */
  readonly isMixture: boolean;
  /** Whether a recurrence mixes tokens in place of attention: `ModelConfig.recurrence`. @default false */
  readonly isRecurrent?: boolean;
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
  /** Whether the router's and experts' products have biases. @default false */
  readonly hasBiases?: boolean | undefined;
  /** FFN rows of a layer that all tokens use besides; 0 for none. */
  readonly sharedSize: number;
  /** Whether both the part that all tokens use and the experts have norms, and experts a factor. @default false */
  readonly hasOwnNorms?: boolean | undefined;
  /** Factor of weights. @default 1 */
  readonly weightScale?: number | undefined;
  /** Sigmoids as weights, perhaps chosen with a bias of each expert. @default a softmax */
  readonly sigmoids?: { readonly hasBiases: boolean } | undefined;
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
  /** Recurrence of the layers with `isRecurrent`; `undefined` when all have attention. */
  readonly recurrence?: RecurrenceConfig | undefined;
  /** Sizes of latent attention; `headSize` is then that of the only key. @default none */
  readonly latent?: LatentConfig | undefined;
  /** Whether heads have scores that take weight from those of positions. @default false */
  readonly hasSinks?: boolean | undefined;
  /** Whether sigmoids of a further product multiply attention's outputs. @default false */
  readonly gatesAttention?: boolean | undefined;
  /** Whether heads of values are normed, without scales, and layers have a factor of the stream. @default false */
  readonly normsValues?: boolean | undefined;
  /** Numbers that each layer has for a token beside the residual stream (Gemma 4's embeddings by layer); 0 for none. */
  readonly layerInputSize?: number | undefined;
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
  /** Sets of angles, all different; each is used by a layer. */
  readonly ropes: readonly RopeConfig[];
  /** Growth of queries behind the original context. @default none */
  readonly queryGrowth?: QueryGrowth | undefined;
  /** Positions that the model was made for; prompt and completion together stay within. */
  readonly contextTokens: number;
  /** One per layer; at least one layer has attention. */
  readonly layers: readonly LayerConfig[];
  /** Factor of embeddings. */
  readonly embeddingScale: number;
  /** Factor of what attention and FFN add to the residual stream. */
  readonly residualScale: number;
  /** Factor of attention scores before the softmax. */
  readonly attentionScale: number;
  /** Factor of logits. */
  readonly logitScale: number;
  /** @default none */
  readonly caps?: SoftCaps | undefined;
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
  /** Properties of a model whose tokens see later ones too. @default a decoder */
  readonly encoder?: EncoderConfig | undefined;
}

/**
 * Sizes of latent attention (DeepSeek V2): all heads read one key, a row of `latentSize` and one of `rotatedSize`, and
 * the first of these is their value. Products of each head make it the head's own.
 */
export interface LatentConfig {
  /** A multiple of 16. */
  readonly latentSize: number;
  /** Numbers of a head's query that do not rotate. */
  readonly plainSize: number;
  /** Numbers of a head's output, a multiple of 16. */
  readonly valueSize: number;
  /** Numbers between the two products of queries; `undefined` where there is one. */
  readonly queryRank: number | undefined;
}

/** Factor of queries, 1 in the original context: `1 + rate * ln(1 + floor(position / period))`. */
export interface QueryGrowth {
  readonly rate: number;
  /** Number of tokens of the original context. */
  readonly period: number;
}

/** Bounds: a number `x` becomes `cap * tanh(x / cap)`. */
export interface SoftCaps {
  /** Bound of scores of attention, behind their factor. */
  readonly scores: number | undefined;
  /** Bound of logits, behind their factor. */
  readonly logits: number | undefined;
}

/** Properties of encoders. */
export interface EncoderConfig {
  /** Whether norms are behind the sums of attention and FFN, as in BERT; else in front of attention and FFN. */
  readonly isPostNorm: boolean;
  /** Row of the first position in the table that is added to embeddings; `undefined` without such a table. */
  readonly firstPosition: number | undefined;
  /** Number of segments, whose embeddings are added; 0 for none. */
  readonly numSegments: number;
  /** Number of buckets of distances with an addend of attention scores; 0 for none. */
  readonly numDistanceBuckets: number;
}

/** Finds the properties of one layer. @throws {RangeError} for a layer that the model does not have */
export function layerConfig({ layers }: ModelConfig, index: number): LayerConfig {
  const layer = layers[index];
  if (layer === undefined) throw new RangeError(`Expected the index of one of ${layers.length} layers, got ${index}`);
  return layer;
}

/** Finds the heads of a layer with attention. */
export function layerHeads(
  { numHeads, numKvHeads, headSize, layers }: Pick<ModelConfig, "numHeads" | "numKvHeads" | "headSize" | "layers">,
  index: number,
): Pick<ModelConfig, "numHeads" | "numKvHeads" | "headSize"> {
  return { numHeads, ...(layers[index]?.heads ?? { numKvHeads, headSize }) };
}

// Results of a model for a whole text, in place of next tokens: an embedding, a score, or logits of labels.

/** Result that a model gives for a whole text, from hidden states of its tokens behind the final norm. */
export type PoolingConfig = EmbeddingConfig | ScoreConfig | LabelConfig;

/** State of the last token, of the first one, or the mean of all; encoders alone have the last two. */
export type PoolingMode = "last" | "first" | "mean";

/** A hidden state is the result, `[hiddenSize]`, or what `dense` makes of it. */
export interface EmbeddingConfig {
  readonly kind: "embedding";
  /** Hidden state that is the result. */
  readonly mode: PoolingMode;
  /** Whether embeddings have length 1. */
  readonly isNormalized: boolean;
  /** Texts that go before an input, by name, such as `query`. */
  readonly prompts: Readonly<Record<string, string>>;
  /** Prompt of inputs for which none is chosen. @default none */
  readonly defaultPrompt?: string | undefined;
  /** Number of tokens that texts are cut to, those around a text included. @default the context */
  readonly maxTokens?: number | undefined;
  /** Products behind the hidden state, in their order, in front of the division by its length. @default none */
  readonly dense?: readonly DenseConfig[] | undefined;
}

/** `activation(x · weightᵀ + bias)`, a module Dense of sentence-transformers. */
export interface DenseConfig {
  /** Folder of its weights in the model's folder, or its name in a GGUF file. */
  readonly name: string;
  readonly inSize: number;
  readonly outSize: number;
  readonly hasBias: boolean;
  readonly activation: "tanh" | undefined;
}

/** Lists the products between a pooled state and an embedding. */
export function denseModules({ pooling }: Pick<ModelConfig, "pooling">): readonly DenseConfig[] {
  return (pooling?.kind === "embedding" && pooling.dense) || [];
}

/** Logits are the result: that of "relevant", and perhaps that of "not relevant". */
export interface ScoreConfig {
  readonly kind: "score";
  readonly head: ScoreHead;
}

/** Place of the rows of a score: rows of the language model's head, or of a tensor of their own. */
type ScoreHead =
  | { readonly tokenIds: readonly number[] }
  | { readonly tensor: string; readonly numRows: number; readonly rows: readonly number[] };

/** Logits of labels are the result, which the layers behind an encoder give (`EncoderRefs.classifier`). */
export interface LabelConfig {
  readonly kind: "labels";
  /** Hidden state of a text that is classified; `undefined` if each token is. */
  readonly mode: PoolingMode | undefined;
  /** Names of the logits. One alone of a text is that of "relevant". */
  readonly labels: readonly string[];
  /** Function that makes probabilities of logits. */
  readonly activation: "softmax" | "sigmoid";
}

/** Finds the state that is a text's result, or that its result is made of. */
export function poolingMode(pooling: PoolingConfig | undefined): PoolingMode {
  return (pooling?.kind === "score" ? undefined : pooling?.mode) ?? "last";
}

/** Returns the most tokens of a sequence: the context, or the length to which an encoder's files cut texts. */
export function longestSequence({ contextTokens, pooling }: Pick<ModelConfig, "contextTokens" | "pooling">): number {
  const most = pooling?.kind === "embedding" ? pooling.maxTokens : undefined;
  return Math.min(contextTokens, most ?? contextTokens);
}

/** Returns the activation of a dense decoder. @throws {TypeError} for others */
export function decoderActivation({
  activation,
}: Pick<ModelConfig, "activation">): Exclude<Activation, "gelu" | "clamped"> {
  if (activation !== "gelu" && activation !== "clamped") return activation;
  throw new TypeError(`Expected the activation of a decoder, got ${activation}`);
}

/** Counts the outputs of a model in the kernel: tokens, dimensions of a state, or logits of a score. */
export function numOutputsOf(config: {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly pooling?: PoolingConfig | undefined;
}): number {
  const { pooling } = config;
  if (pooling === undefined) return config.vocabSize;
  if (pooling.kind !== "score") return config.hiddenSize;
  return "tokenIds" in pooling.head ? pooling.head.tokenIds.length : pooling.head.rows.length;
}

// Rotary position embedding: the angle of each pair of dimensions at each position.

/** Base frequencies, and how they are stretched for a longer context. */
export type RopeConfig =
  | { readonly type: "default"; readonly theta: number }
  | { readonly type: "linear"; readonly theta: number; readonly factor: number }
  | {
      readonly type: "llama3";
      readonly theta: number;
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalContextTokens: number;
    }
  | {
      readonly type: "longrope";
      readonly theta: number;
      /** Divisors of the frequencies, `[rotatedSize / 2]`, for contexts of up to `originalContextTokens`. */
      readonly shortFactors: readonly number[];
      /** Divisors for longer contexts. */
      readonly longFactors: readonly number[];
      readonly originalContextTokens: number;
      /** Factor of cosines and sines. */
      readonly attentionFactor: number;
      /** Whether `longFactors` count. */
      readonly isLong: boolean;
    }
  | {
      readonly type: "yarn";
      readonly theta: number;
      readonly factor: number;
      readonly originalContextTokens: number;
      /** Turns within the original context from which a pair is not stretched, and up to which it is wholly. */
      readonly fastTurns: number;
      readonly slowTurns: number;
      /** Whether the pairs with so many turns are rounded to whole ones. */
      readonly isRounded: boolean;
      /** Factor of cosines and sines. */
      readonly attentionFactor: number;
    }
  /** The first share of the pairs of heads of this size rotate, with the frequencies that they have among all. */
  | { readonly type: "proportional"; readonly theta: number; readonly share: number; readonly headSize: number }
  /** GGUF files of Llama 3 have the divisor of each frequency, `[rotatedSize / 2]`, instead of the parameters. */
  | { readonly type: "factors"; readonly theta: number; readonly factors: readonly number[] };

/** Cosines and sines, each `[to - from, rotatedSize / 2]`. */
interface RopeTables {
  readonly cos: Float32Array;
  readonly sin: Float32Array;
}

/**
 * Computes the tables of positions `[from, to)`. Frequencies and angles are rounded to float32 where PyTorch
 * rounds them, so that far positions have the angles that the model was trained with.
 */
export function ropeTables(rope: RopeConfig, rotatedSize: number, from: number, to: number): RopeTables {
  const frequencies = ropeFrequencies(rope, rotatedSize);
  const scale = ropeScale(rope);
  const half = frequencies.length;
  const cos = new Float32Array((to - from) * half);
  const sin = new Float32Array((to - from) * half);
  for (let position = from; position < to; position++) {
    const start = (position - from) * half;
    for (const [pair, frequency] of frequencies.entries()) {
      const angle = Math.fround(position * frequency);
      cos[start + pair] = scale * Math.cos(angle);
      sin[start + pair] = scale * Math.sin(angle);
    }
  }
  return { cos, sin };
}

/** Computes the factor of a position's query. */
export function queryFactor({ rate, period }: QueryGrowth, position: number): number {
  return 1 + rate * Math.log1p(Math.floor(position / period));
}

/** Finds the factor of cosines and sines. */
export function ropeScale(rope: RopeConfig): number {
  return rope.type === "longrope" || rope.type === "yarn" ? rope.attentionFactor : 1;
}

/** Finds the number of a head's dimensions that a set of angles rotates. */
export function rotatedBy({ ropes, rotatedSize }: Pick<ModelConfig, "ropes" | "rotatedSize">, set: number): number {
  const rope = ropes[set % ropes.length];
  return rope?.type === "proportional" ? rope.headSize : rotatedSize;
}

/** Computes the radians per position of each pair, `[rotatedSize / 2]`. */
export function ropeFrequencies(rope: RopeConfig, rotatedSize: number): Float32Array {
  const waves = Float32Array.from(
    { length: rotatedSize / 2 },
    (_, pair) => rope.theta ** Math.fround((2 * pair) / rotatedSize),
  );
  const frequencies = waves.map((wave) => 1 / wave);
  switch (rope.type) {
    case "default":
      return frequencies;
    case "proportional":
      return frequencies.map((frequency, pair) =>
        pair < Math.floor((rope.share * rope.headSize) / 2) ? frequency : 0,
      );
    case "linear":
      return frequencies.map((frequency) => frequency / rope.factor);
    case "factors":
      return frequencies.map((frequency, pair) => frequency / (rope.factors[pair] ?? 1));
    case "longrope":
      return stretched(waves, rope.isLong ? rope.longFactors : rope.shortFactors);
    case "llama3":
      return frequencies.map((frequency) => stretchLlama3(frequency, rope));
    case "yarn":
      return stretchYarn(waves, rope);
    default:
      throw new TypeError(`Unknown RoPE type: ${String(rope satisfies never)}`);
  }
}

function stretched(waves: Float32Array, factors: readonly number[]): Float32Array {
  return waves.map((wave, pair) => wave * Math.fround(factors[pair] ?? 1)).map((wave) => 1 / wave);
}

/** Stretches long waves by `factor`, keeps short ones, and mixes those between (Llama 3.1). */
function stretchLlama3(frequency: number, rope: RopeConfig & { type: "llama3" }): number {
  const wavelength = (2 * Math.PI) / frequency;
  if (wavelength > rope.originalContextTokens / rope.lowFreqFactor) return frequency / rope.factor;
  if (wavelength < rope.originalContextTokens / rope.highFreqFactor) return frequency;
  const smooth =
    (rope.originalContextTokens / wavelength - rope.lowFreqFactor) / (rope.highFreqFactor - rope.lowFreqFactor);
  return ((1 - smooth) * frequency) / rope.factor + smooth * frequency;
}

/** Stretches pairs with few turns by `factor`, keeps those with many, and mixes those between (arXiv 2309.00071). */
function stretchYarn(waves: Float32Array, rope: RopeConfig & { type: "yarn" }): Float32Array {
  const { theta, factor, originalContextTokens, fastTurns, slowTurns, isRounded } = rope;
  const pairWith = (turns: number): number =>
    (waves.length * Math.log(originalContextTokens / (2 * Math.PI * turns))) / Math.log(theta);
  const [fast, slow] = [pairWith(fastTurns), pairWith(slowTurns)];
  const first = Math.max(0, isRounded ? Math.floor(fast) : fast);
  const last = Math.min(2 * waves.length - 1, isRounded ? Math.ceil(slow) : slow);
  const length = first === last ? 0.001 : last - first;
  return waves.map((wave, pair) => {
    const kept = Math.fround(1 - Math.min(1, Math.max(0, Math.fround((pair - first) / length))));
    const stretchedFrequency = Math.fround(1 / Math.fround(factor * wave));
    return Math.fround(stretchedFrequency * Math.fround(1 - kept)) + Math.fround(Math.fround(1 / wave) * kept);
  });
}

// LongRoPE: frequencies have other divisors in long contexts than in short ones (Phi-3).

type LongRope = RopeConfig & { readonly type: "longrope" };

/**
 * Reads the parameters of LongRoPE as transformers does (`_compute_longrope_parameters`).
 *
 * @param outer - `original_max_position_embeddings` beside the parameters, which takes precedence over the one in them
 * @throws {ReadMeError} `ERR_MODEL_INVALID` naming the field
 */
export function parseLongRope(
  parameters: Fields,
  outer: number | undefined,
  sizes: Pick<ModelConfig, "rotatedSize" | "contextTokens"> & { readonly theta: number },
): LongRope {
  const { theta, rotatedSize, contextTokens } = sizes;
  const originalContextTokens =
    outer ?? parameters.size("original_max_position_embeddings", MOST.tokens, contextTokens);
  // The logarithm of 1 would be a divisor.
  if (originalContextTokens < 2)
    throw parameters.invalid("expected `original_max_position_embeddings` to be at least 2");
  const stretch = parameters.positive("factor", contextTokens / originalContextTokens);
  return {
    type: "longrope",
    theta,
    shortFactors: parameters.positives("short_factor", rotatedSize / 2),
    longFactors: parameters.positives("long_factor", rotatedSize / 2),
    originalContextTokens,
    attentionFactor: parameters.positive("attention_factor", attentionFactorOf(stretch, originalContextTokens)),
    isLong: contextTokens > originalContextTokens,
  };
}

/** Computes LongRoPE's factor of cosines and sines for a context that is `stretch` times the original one. */
export function attentionFactorOf(stretch: number, originalContextTokens: number): number {
  return stretch <= 1 ? 1 : Math.sqrt(1 + Math.log(stretch) / Math.log(originalContextTokens));
}

/**
 * Chooses the divisors for a context. They are chosen once for all tokens: a choice by the length of a sequence would
 * make a token's logits depend on later tokens.
 *
 * @param contextTokens - largest number of tokens that a sequence will have
 */
export function ropeForContext(rope: RopeConfig, contextTokens: number): RopeConfig {
  return rope.type === "longrope" ? { ...rope, isLong: contextTokens > rope.originalContextTokens } : rope;
}

/** Computes `yarn_get_mscale` of transformers. */
export function yarnGrowth(factor: number, scale: number): number {
  return factor <= 1 ? 1 : 0.1 * scale * Math.log(factor) + 1;
}
