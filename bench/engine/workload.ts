// Token ids for all contenders, drawn from a text with a seed.

import { tokenSequences } from "@readme-moe/engine/evaluation";
import type { Model, Tokenizer } from "@readme-moe/model";
import { seededRandom } from "@readme-moe/core";

/** The work of one process. */
export interface Workload {
  readonly warmUp: readonly number[];
  /** Prompts that run at once, for each number of requests. */
  readonly batches: readonly (readonly (readonly number[])[])[];
  readonly newTokens: number;
  /** Prompts that run alone, by length. */
  readonly longPrompts: readonly (readonly number[])[];
  /** New tokens after each of them. */
  readonly contextTokens: number;
  /** Sequences to predict, by file; empty if the loss is already known. */
  readonly texts: readonly (readonly (readonly number[])[])[];
}

export interface WorkloadSizes {
  readonly concurrency: readonly number[];
  readonly promptTokens: number;
  readonly newTokens: number;
  readonly contexts: readonly number[];
  readonly contextTokens: number;
}

// Far more than all prompts together need.
const SOURCE_TOKENS = 50_000;

/** Joins documents as token ids to draw prompts from, up to a sufficient number. */
export function promptSource(tokenizer: Tokenizer, documents: readonly string[]): readonly number[] {
  const tokens: number[] = [];
  for (const text of documents) {
    for (const id of tokenizer.encode(text, { addSpecialTokens: false })) tokens.push(id);
    if (tokens.length >= SOURCE_TOKENS) break;
  }
  return tokens;
}

/** Draws random token ids, for runs without text. */
export function drawnSource(vocabSize: number, seed: number): readonly number[] {
  const random = seededRandom(seed);
  return Array.from({ length: SOURCE_TOKENS }, () => Math.floor(random() * vocabSize));
}

/** Draws the prompts of one round. No two begin alike, so that no prefix cache helps. */
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

/** Cuts each file into sequences as `readme-moe eval` does. */
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

/** Shuffles the numbers `[0, count)` with a seed (Fisher-Yates). */
function shuffled(count: number, seed: number): number[] {
  const random = seededRandom(seed);
  const numbers = Array.from({ length: Math.max(0, count) }, (_, index) => index);
  for (let last = numbers.length - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1));
    [numbers[last], numbers[other]] = [numbers[other] as number, numbers[last] as number];
  }
  return numbers;
}
