// Documents as the passages that a model's loss on them is computed over.

import { integerOption } from "@readme-moe/core";
import { endOfTextId, type Model, type Tokenizer } from "@readme-moe/model";
import type { Passage } from "./passage.ts";

/** How a text becomes passages that a model sees one at a time. Lengths in tokens. */
export interface PassageOptions {
  /** Tokens of each sequence or window. @default 512, or the model's context where that is less */
  readonly sequenceLength?: number | undefined;
  /** @default 8 */
  readonly maxSequences?: number | undefined;
  /**
   * Tokens that windows advance by, below `sequenceLength`: windows overlap, and each token is predicted once, with
   * at least `sequenceLength - stride` tokens before it, where the text has so many. @default no overlap, and a
   * sequence's first token is not predicted
   */
  readonly stride?: number | undefined;
}

/**
 * Each document is tokenised without special tokens and ended by the end-of-text token; all are joined, and cut into
 * sequences, or into windows where `stride` says so.
 *
 * @throws {RangeError} when the documents have fewer than two tokens
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
  integerOption("stride", stride, 1, length - 1);
  const tokens = joinDocuments(model, tokenizer, documents, length + (most - 1) * stride);
  return slidingWindows(tokens, length, stride).slice(0, most);
}

/** Sequences of `sequenceLength` tokens; the last tokens that do not fill one are left out, unless they are all. */
export function tokenSequences(
  model: Pick<Model, "config">,
  tokenizer: Tokenizer,
  documents: Iterable<string>,
  options: Pick<PassageOptions, "sequenceLength" | "maxSequences"> = {},
): readonly Int32Array[] {
  const { length, most } = limits(model, options);
  const joined = joinDocuments(model, tokenizer, documents, length * most);
  const count = Math.floor(joined.length / length);
  if (count === 0) return [joined];
  return Array.from({ length: count }, (_, index) => joined.slice(index * length, (index + 1) * length));
}

/** Sequences of which every token but the first is predicted. */
export function wholeSequences(sequences: readonly Int32Array[]): readonly Passage[] {
  return sequences.map((tokenIds) => ({ tokenIds, firstTarget: 1 }));
}

/**
 * Windows over one long text, the usual way to a perplexity that cuts do not spoil: the first predicts all of its
 * tokens but one, each further one those that the one before did not have. The last may be shorter.
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
  maxTokens: number,
): Int32Array {
  const endOfText = endOfTextId(tokenizer, config.eosTokenIds);
  const joined: number[] = [];
  for (const text of documents) {
    for (const id of tokenizer.encode(text, { addSpecialTokens: false })) joined.push(id);
    joined.push(endOfText);
    if (joined.length >= maxTokens) break;
  }
  if (joined.length < 2) throw new RangeError("Expected `documents` to hold at least two tokens");
  return Int32Array.from(joined.slice(0, maxTokens));
}
