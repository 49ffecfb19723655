// The same token ids for every contender, drawn from real text with a seed.

import { tokenSequences } from "@readme-moe/engine";
import type { Model, Tokenizer } from "@readme-moe/model";

/** What one process measures. */
export interface Workload {
  readonly warmUp: readonly number[];
  /** Prompts that run at once, for each number of requests. */
  readonly batches: readonly (readonly (readonly number[])[])[];
  readonly newTokens: number;
  readonly longPrompt: readonly number[];
  /** Sequences to predict, by file; none where the loss is known already. */
  readonly texts: readonly (readonly (readonly number[])[])[];
}

export interface WorkloadSizes {
  readonly concurrency: readonly number[];
  readonly promptTokens: number;
  readonly newTokens: number;
  readonly prefillTokens: number;
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

/** Prompts of one repetition. No two of all begin alike, so that no cache of beginnings helps. */
export function drawPrompts(text: readonly number[], sizes: WorkloadSizes, seed: number): Omit<Workload, "texts"> {
  const { concurrency, promptTokens, newTokens, prefillTokens } = sizes;
  const starts = shuffled(text.length - prefillTokens, seed);
  const numPrompts = 2 + concurrency.reduce((sum, count) => sum + count, 0);
  if (starts.length < numPrompts) {
    throw new RangeError(`Expected the text to have at least ${prefillTokens + numPrompts} tokens, got ${text.length}`);
  }
  const draw = (length: number): readonly number[] => {
    const start = starts.pop() ?? 0;
    return text.slice(start, start + length);
  };
  const warmUp = draw(promptTokens);
  const batches = concurrency.map((count) => Array.from({ length: count }, () => draw(promptTokens)));
  return { warmUp, batches, newTokens, longPrompt: draw(prefillTokens) };
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

/** The numbers `[0, count)` in an order that the seed says (Fisher-Yates; Mulberry32). */
function shuffled(count: number, seed: number): number[] {
  let state = seed >>> 0;
  const random = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const numbers = Array.from({ length: Math.max(0, count) }, (_, index) => index);
  for (let last = numbers.length - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1));
    [numbers[last], numbers[other]] = [numbers[other] as number, numbers[last] as number];
  }
  return numbers;
}
