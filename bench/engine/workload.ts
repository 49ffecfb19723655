// The same token ids for every contender, drawn from a text with a seed.

import { tokenSequences } from "@readme-moe/engine/evaluation";
import type { Model, Tokenizer } from "@readme-moe/model";
import { seededRandom } from "@readme-moe/core";

/** What one process measures. */
export interface Workload {
  readonly warmUp: readonly number[];
  /** Prompts that run at once, for each number of requests. */
  readonly batches: readonly (readonly (readonly number[])[])[];
  readonly newTokens: number;
  /** Prompts that run alone, by length. */
  readonly longPrompts: readonly (readonly number[])[];
  /** New tokens behind each of them. */
  readonly contextTokens: number;
  /** Sequences to predict, by file; none where the loss is known already. */
  readonly texts: readonly (readonly (readonly number[])[])[];
}

export interface WorkloadSizes {
  readonly concurrency: readonly number[];
  readonly promptTokens: number;
  readonly newTokens: number;
  readonly contexts: readonly number[];
  readonly contextTokens: number;
}

// Far more than all prompts together take.
const SOURCE_TOKENS = 50_000;

/** Token ids to draw prompts from: the documents one after the other, up to a number that is enough. */
export function promptSource(tokenizer: Tokenizer, documents: readonly string[]): readonly number[] {
  const tokens: number[] = [];
  for (const text of documents) {
    for (const id of tokenizer.encode(text, { addSpecialTokens: false })) tokens.push(id);
    if (tokens.length >= SOURCE_TOKENS) break;
  }
  return tokens;
}

/** Where there is no text: any tokens. */
export function drawnSource(vocabSize: number, seed: number): readonly number[] {
  const random = seededRandom(seed);
  return Array.from({ length: SOURCE_TOKENS }, () => Math.floor(random() * vocabSize));
}

/** Prompts of one round. No two of all begin alike, so that no cache of beginnings helps. */
export function drawPrompts(text: readonly number[], sizes: WorkloadSizes, seed: number): Omit<Workload, "texts"> {
  const { concurrency, promptTokens, newTokens, contexts, contextTokens } = sizes;
  const longest = Math.max(promptTokens, ...contexts);
  const starts = shuffled(text.length - longest, seed);
  const numPrompts = 1 + contexts.length + concurrency.reduce((sum, count) => sum + count, 0);
  if (starts.length < numPrompts) {
    throw new RangeError(`Expected the text to have at least ${longest + numPrompts} tokens, got ${text.length}`);
  }
  const draw = (length: number): readonly number[] => {
    const start = starts.pop() ?? 0;
    return text.slice(start, start + length);
  };
  const warmUp = draw(promptTokens);
  const batches = concurrency.map((count) => Array.from({ length: count }, () => draw(promptTokens)));
  return { warmUp, batches, newTokens, longPrompts: contexts.map(draw), contextTokens };
}

/** Each file's sequences, cut as `readme-moe eval` cuts them. */
export function textsOf(
  model: Model,
  tokenizer: Tokenizer,
  files: readonly (readonly string[])[],
  options: { readonly sequenceLength: number; readonly maxSequences: number },
): Workload["texts"] {
  return files.map((documents) =>
    tokenSequences(model, tokenizer, documents, options).map((sequence) => Array.from(sequence)),
  );
}

/** The numbers `[0, count)` in an order that the seed says (Fisher-Yates). */
function shuffled(count: number, seed: number): number[] {
  const random = seededRandom(seed);
  const numbers = Array.from({ length: Math.max(0, count) }, (_, index) => index);
  for (let last = numbers.length - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1));
    [numbers[last], numbers[other]] = [numbers[other] as number, numbers[last] as number];
  }
  return numbers;
}
