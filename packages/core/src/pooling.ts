// Embeddings, scores and labels of whole texts: requests, results, and the arithmetic on what a model gives.

import { describeValue, textOption } from "./options.ts";
import type { ChatMessage, Usage } from "./generation.ts";

/** Task of a model: continuing prompts, embeddings of texts, scores of documents for a query, or labels of texts. */
export type ModelTask = "generate" | "embed" | "rerank" | "classify";

/** Facts about a model's embeddings. */
export interface EmbeddingInfo {
  /** Length of an embedding. */
  readonly dimensions: number;
  /** Texts that the model's authors put before inputs, by name, such as `query`. */
  readonly prompts: Readonly<Record<string, string>>;
  /** Name of the prompt of requests that choose none. @default none */
  readonly defaultPrompt?: string | undefined;
  /** Whether embeddings have length 1, so that a product of two is their cosine. */
  readonly isNormalized: boolean;
  /** Whether states of all tokens can be had: `EmbedRequest.pooling`. @default false */
  readonly givesStates?: boolean | undefined;
}

/** Facts about a model's labels. */
export interface ClassificationInfo {
  /** Names of the labels, in the order of logits. */
  readonly labels: readonly string[];
  /** Whether each token of a text gets labels, as names of persons and places do; else the text does. */
  readonly isOfTokens: boolean;
  /** Function that makes probabilities of logits: `"sigmoid"` where a text may have several labels, or there is one. */
  readonly activation: "softmax" | "sigmoid";
}

/** Token ids of an encoder, with the segment of each: those of a pair's first text have 0, those of its second 1. */
export interface SegmentedIds {
  readonly tokenIds: ArrayLike<number>;
  /** Segment of each token. */
  readonly segments: ArrayLike<number>;
}

/** State of one text of a request. */
export interface PoolingProgress {
  /** Index of the text in the request. */
  readonly index: number;
  readonly promptTokens: number;
  /** Whether the text has run; false when the engine has tokenized and queued it. */
  readonly isDone: boolean;
}

/** Options of embeddings, scores and labels. */
export interface PoolingOptions {
  /** Waiting sequences with larger numbers go first. @default 0 */
  readonly priority?: number | undefined;
  /** Name of the client, for fair shares. @default no name */
  readonly client?: string | undefined;
  /** Texts get cached beginnings of requests with the same salt only. @default requests without a salt share theirs */
  readonly cacheSalt?: string | undefined;
  /**
   * Whether the ends of texts that are longer than the model's limit are left out, as encoders do it; else such a text
   * is refused with `ERR_CONTEXT_LENGTH`, as decoders do it, which shorten no pairs. Token ids are never cut.
   * @default true of encoders, false of decoders
   */
  readonly truncate?: boolean | undefined;
  /** Beginning of the ids of its sequences in events. @default an id that the engine makes */
  readonly id?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Called when a text is queued, and when it has run. An error that it throws ends the request. @default none */
  readonly onProgress?: ((progress: PoolingProgress) => void) | undefined;
}

/** A request of `Engine.embed`. */
export interface EmbedRequest extends PoolingOptions {
  /** Texts or token ids, at least one; each becomes an embedding. The model's end token is added to texts alone. */
  readonly inputs: readonly (string | ArrayLike<number> | SegmentedIds)[];
  /** Length of each embedding, 1 to the model's: its first numbers, as an embedding of length 1. @default all */
  readonly dimensions?: number | undefined;
  /** Task of a query, in one sentence. Puts `Instruct: …\nQuery:` before each text. @default none */
  readonly instruction?: string | undefined;
  /** Name of one of `EngineInfo.embedding.prompts`, which goes before each text. @default the model's, if any */
  readonly promptName?: string | undefined;
  /** Whether embeddings are divided by their length. @default `EmbeddingInfo.isNormalized`, as the model's files say */
  readonly normalize?: boolean | undefined;
  /**
   * `"none"` gives the states of all tokens of a text, `[tokens * size of a state]`, of encoders alone. Modules behind
   * the pooling, such as Dense, have no part in them.
   * @default the model's way to one embedding of a text
   */
  readonly pooling?: "none" | undefined;
}

/** A request of `Engine.rerank`. */
export interface RerankRequest extends PoolingOptions {
  readonly query: string;
  /** Texts to score, at least one. */
  readonly documents: readonly string[];
  /** Task in one sentence: what makes a document relevant. @default the one that the model was trained on */
  readonly instruction?: string | undefined;
  /** Whether scores are the logits, which have no limits. @default false */
  readonly rawScores?: boolean | undefined;
}

/** A request of `Engine.classify`. */
export interface ClassifyRequest extends PoolingOptions {
  /** Texts, pairs of texts such as a premise and a hypothesis, or token ids; at least one. */
  readonly inputs: readonly (string | readonly [text: string, pair: string] | ArrayLike<number> | SegmentedIds)[];
}

/** A request of `ReadMeEngine.fillMasks`. */
export interface FillMasksRequest extends PoolingOptions {
  /** Texts, or token ids; at least one. Texts that are longer than the context are refused. */
  readonly inputs: readonly (string | ArrayLike<number> | SegmentedIds)[];
  /** Tokens that get logits; `"masks"` needs at least one in each input. @default "masks" */
  readonly places?: "masks" | "all" | undefined;
}

/** Tokens of a request, summed over its texts, and the longest time that one waited. */
export type PoolingUsage = Pick<Usage, "promptTokens" | "cachedTokens" | "queuedMs">;

/** Result of `Engine.embed`. */
export interface Embeddings {
  /** `[inputs][dimensions]`, or states of all tokens. Embeddings that are normalised have length 1. */
  readonly embeddings: readonly Float32Array<ArrayBuffer>[];
  readonly usage: PoolingUsage;
}

/** Result of `Engine.rerank`. */
export interface Ranking {
  /** Relevance of each document, 0 to 1 unless they are raw, in the order of the request. */
  readonly scores: readonly number[];
  readonly usage: PoolingUsage;
}

/** Result of `Engine.classify`, whose labels are `EngineInfo.classification.labels`. */
export interface Classifications {
  /** Logits of each input: `[labels]`, or `[tokens * labels]` if tokens have labels. */
  readonly logits: readonly Float32Array<ArrayBuffer>[];
  /** Probabilities, 0 to 1, in the places of their logits. */
  readonly probabilities: readonly Float32Array<ArrayBuffer>[];
  readonly usage: PoolingUsage;
}

/** Result of `ReadMeEngine.fillMasks`. */
export interface FilledMasks {
  readonly inputs: readonly {
    readonly tokenIds: Int32Array;
    /** Indices in `tokenIds` of those with logits. */
    readonly places: readonly number[];
    /** `[places * vocabSize]`. */
    readonly logits: Float32Array<ArrayBuffer>;
  }[];
  readonly usage: PoolingUsage;
}

/**
 * Returns the text that goes before each input. An instruction has the form that Qwen3-Embedding was trained on.
 * @throws {TypeError | RangeError} on an unknown name, or on two texts
 */
export function embeddingPrefix(
  { instruction, promptName }: Pick<EmbedRequest, "instruction" | "promptName">,
  { prompts, defaultPrompt }: Pick<EmbeddingInfo, "prompts" | "defaultPrompt">,
): string {
  if (instruction !== undefined) {
    if (promptName !== undefined) throw new TypeError("Expected `instruction` or `promptName`, got both");
    return `Instruct: ${textOption("instruction", instruction)}\nQuery:`;
  }
  const name = promptName ?? defaultPrompt;
  if (name === undefined) return "";
  const prompt = Object.hasOwn(prompts, name) ? prompts[name] : undefined;
  if (prompt !== undefined) return prompt;
  const known = Object.keys(prompts).join(", ") || "none";
  throw new RangeError(
    `Expected \`promptName\` to be one of the model's prompts (${known}), got ${describeValue(name)}`,
  );
}

/**
 * Makes an embedding of a hidden state.
 *
 * @param hidden - `[hiddenSize]`
 * @param dimensions - number of its first values that are kept @default all
 * @returns those values, divided by their length if `isNormalized`; all 0 stays 0
 */
export function embeddingOf(
  hidden: Float32Array,
  isNormalized: boolean,
  dimensions: number = hidden.length,
): Float32Array<ArrayBuffer> {
  const values = hidden.slice(0, dimensions);
  if (!isNormalized) return values;
  // In float64, so that values near the limits of float32 have a length.
  const length = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
  return length === 0 ? values : values.map((value) => value / length);
}

/**
 * Computes the relevance from the logit of "relevant" and, if there is one, that of "not relevant".
 * @returns the share of the first in the softmax, 0 to 1; the logit of that share if `isRaw`
 */
export function relevanceOf(logits: ArrayLike<number>, isRaw = false): number {
  const logit = (logits[0] ?? 0) - (logits[1] ?? 0);
  return isRaw ? logit : 1 / (1 + Math.exp(-logit));
}

/** Computes probabilities of labels. @param logits - `[labels]`, or rows of so many */
export function labelProbabilities(
  logits: Float32Array,
  { labels, activation }: Pick<ClassificationInfo, "labels" | "activation">,
): Float32Array<ArrayBuffer> {
  if (activation === "sigmoid") return Float32Array.from(logits, (logit) => 1 / (1 + Math.exp(-logit)));
  const probabilities = new Float32Array(logits.length);
  for (let from = 0; from < logits.length; from += labels.length) {
    const row = logits.subarray(from, from + labels.length);
    const largest = row.reduce((most, logit) => Math.max(most, logit), -Infinity);
    const weights = Array.from(row, (logit) => Math.exp(logit - largest));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    probabilities.set(
      weights.map((weight) => weight / total),
      from,
    );
  }
  return probabilities;
}

/**
 * Lists documents or labels by their scores, the most relevant first. Equal scores keep the order of the request.
 * @param most - length of the list. @default all
 */
export function rankedDocuments(
  scores: ArrayLike<number>,
  most: number = scores.length,
): readonly { readonly index: number; readonly score: number }[] {
  const ranked = Array.from(scores, (score, index) => ({ index, score })).toSorted((a, b) => b.score - a.score);
  return ranked.slice(0, most);
}

/** Lists the messages of which a reranker's template makes a prompt. */
export function rerankPrompt(
  { query, instruction }: Pick<RerankRequest, "query" | "instruction">,
  document: string,
): { readonly messages: readonly ChatMessage[] } {
  const system = instruction === undefined ? [] : [{ role: "system", content: instruction }];
  return { messages: [...system, { role: "query", content: query }, { role: "document", content: document }] };
}
