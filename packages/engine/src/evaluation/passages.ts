// Texts as passages: tokens of which some are predicted, each from all those before it.

import { integerOption } from "@readme-moe/core";
import { cutSequences, endOfTextId, type Model, type Tokenizer } from "@readme-moe/model";

/** Tokens, of which those from `firstTarget` on are predicted, each from all those before it. */
export interface Passage {
  readonly tokenIds: Int32Array;
  /** Index of the first predicted token, from 1 and below the number of tokens. */
  readonly firstTarget: number;
}

/** A model's predictions of a passage. */
export interface PassageScores {
  /** Log-probability of each predicted token, in nats, `[tokens - firstTarget]`. */
  readonly logProbs: Float32Array;
  /** Expert of each token but the last, which never runs, `[tokens - 1]`. */
  readonly experts: Uint16Array;
}

/** Checks a passage. @throws {RangeError} if it predicts nothing, or its first token */
export function checkPassage({ tokenIds, firstTarget }: Passage): void {
  if (Number.isInteger(firstTarget) && firstTarget >= 1 && firstTarget < tokenIds.length) return;
  const expectation = `from 1 to ${tokenIds.length - 1}, since the passage has ${tokenIds.length} tokens`;
  throw new RangeError(`Expected \`firstTarget\` to be ${expectation}, got \`${firstTarget}\``);
}

/** Options of `passagesOf`. Lengths in tokens. */
export interface PassageOptions {
  /** Length of each sequence or window. @default 512, or the model's context if that is less */
  readonly sequenceLength?: number | undefined;
  /** Largest number of sequences or windows. @default 8 */
  readonly maxSequences?: number | undefined;
  /**
   * Distance between the beginnings of windows, below `sequenceLength`. Windows overlap, and each token is predicted
   * once, from at least `sequenceLength - stride` tokens before it, if the text has that many. @default no overlap;
   * the first token of a sequence is not predicted
   */
  readonly stride?: number | undefined;
}

/**
 * Converts documents to passages. Each document is tokenized without special tokens and ended by the end-of-text
 * token; all are joined and cut into sequences, or with `stride` into windows. Each begins with the BOS token if the
 * model expects one.
 *
 * @throws {RangeError} if the documents have fewer than two tokens
 */
export function passagesOf(
  model: Pick<Model, "config">,
  tokenizer: Tokenizer,
  documents: Iterable<string>,
  options: PassageOptions = {},
): readonly Passage[] {
  const { stride } = options;
  if (stride === undefined) return wholeSequences(tokenSequences(model, tokenizer, documents, options));
  const { length, most } = limits(model, options);
  const { openingIds } = tokenizer;
  const own = length - openingIds.length;
  integerOption("stride", stride, 1, own - 1);
  const tokens = joinDocuments(model, tokenizer, documents, own + (most - 1) * stride);
  return slidingWindows(tokens, own, stride).map(({ tokenIds, firstTarget }) => ({
    tokenIds: Int32Array.from([...openingIds, ...tokenIds]),
    firstTarget: openingIds.length + firstTarget,
  }));
}

/**
 * Cuts documents into sequences of `sequenceLength` tokens, each with the BOS token if the model expects one. The rest
 * is left out, unless the text is shorter than one sequence.
 */
export function tokenSequences(
  model: Pick<Model, "config">,
  tokenizer: Tokenizer,
  documents: Iterable<string>,
  options: Pick<PassageOptions, "sequenceLength" | "maxSequences"> = {},
): readonly Int32Array[] {
  const { length, most } = limits(model, options);
  const joined = joinDocuments(model, tokenizer, documents, length * most);
  const sequences = cutSequences(tokenizer, joined, length).slice(0, most);
  return sequences.length > 0 ? sequences : [Int32Array.from([...tokenizer.openingIds, ...joined])];
}

/** Converts sequences to passages of which every token but the first is predicted. */
export function wholeSequences(sequences: readonly Int32Array[]): readonly Passage[] {
  return sequences.map((tokenIds) => ({ tokenIds, firstTarget: 1 }));
}

/**
 * Cuts one long text into overlapping windows, the usual way to a perplexity without the effect of cuts. The first
 * window predicts all of its tokens but one, each further window the tokens that the one before did not have. The last
 * window may be shorter.
 *
 * @param stride - from 1 to `length - 1`
 */
export function slidingWindows(tokens: Int32Array, length: number, stride: number): readonly Passage[] {
  const windows: Passage[] = [];
  let predicted = 1;
  for (let start = 0; predicted < tokens.length; start += stride) {
    const end = Math.min(start + length, tokens.length);
    windows.push({ tokenIds: tokens.slice(start, end), firstTarget: predicted - start });
    predicted = end;
  }
  return windows;
}

function limits({ config }: Pick<Model, "config">, options: PassageOptions): { length: number; most: number } {
  const { sequenceLength = Math.min(512, config.contextTokens) } = options;
  return {
    length: integerOption("sequenceLength", sequenceLength, 2, config.contextTokens),
    most: integerOption("maxSequences", options.maxSequences ?? 8, 1),
  };
}

function joinDocuments(
  { config }: Pick<Model, "config">,
  tokenizer: Tokenizer,
  documents: Iterable<string>,
  mostTokens: number,
): Int32Array {
  const endOfText = endOfTextId(tokenizer, config.eosTokenIds);
  const joined: number[] = [];
  for (const text of documents) {
    for (const id of tokenizer.encode(text, { addSpecialTokens: false })) joined.push(id);
    joined.push(endOfText);
    if (joined.length >= mostTokens) break;
  }
  if (joined.length < 2) throw new RangeError("Expected `documents` to hold at least two tokens");
  return Int32Array.from(joined.slice(0, mostTokens));
}

/** One of the answers to a question. */
export interface Choice {
  /** Text before the continuation; may be empty. */
  readonly context: string;
  /** Text that is scored; not empty. */
  readonly continuation: string;
}

export interface ChoicePassage extends Passage {
  /** Number of tokens at the beginning of the context that did not fit and were left out. */
  readonly numCutTokens: number;
}

/**
 * Converts a choice to a passage, as evaluation harnesses do. The whole text is tokenized at once, without special
 * tokens; the tokens after those of the context alone belong to the continuation. White space at the end of the
 * context belongs to the continuation. An empty context becomes the token that texts begin with.
 *
 * @param mostTokens - largest number of tokens that the model may see; the beginning is left out if there are more
 */
export function choicePassage(
  { config }: Pick<Model, "config">,
  tokenizer: Tokenizer,
  { context, continuation }: Choice,
  mostTokens: number,
): ChoicePassage {
  const encode = (text: string): Int32Array => tokenizer.encode(text, { addSpecialTokens: false });
  let whole = encode(context + continuation);
  let numContextTokens = encode(context.trimEnd()).length;
  if (numContextTokens === 0) {
    const beginning = tokenizer.bosToken?.id ?? endOfTextId(tokenizer, config.eosTokenIds);
    whole = Int32Array.of(beginning, ...whole);
    numContextTokens = 1;
  }
  // The last token is predicted and never runs.
  const numCutTokens = Math.max(0, whole.length - mostTokens - 1);
  const tokenIds = whole.subarray(numCutTokens);
  // If a merge puts the continuation into the context's last token, that token is scored.
  const firstTarget = Math.min(Math.max(1, numContextTokens - numCutTokens), tokenIds.length - 1);
  return { tokenIds, firstTarget, numCutTokens };
}
