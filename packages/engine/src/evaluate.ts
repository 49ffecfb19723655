import { integerOption, type PreGatingRouter } from "@readme-moe/core";
import { KvPool, type KvSlot, type Model, type Tokenizer, upFrom, wholeBlocks } from "@readme-moe/model";
import type { ModelRunner } from "./model-runner.ts";

export interface EvaluateOptions {
  /** Tokens of each sequence; the last ones of a text that do not fill one are left out. @default 512 */
  readonly sequenceLength?: number | undefined;
  /** @default 8 */
  readonly maxSequences?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Called after each sequence. */
  readonly onProgress?: ((done: { readonly sequences: number; readonly of: number }) => void) | undefined;
}

export interface Evaluation {
  /** Mean loss in nats over all predicted tokens. */
  readonly loss: number;
  /** `exp(loss)` */
  readonly perplexity: number;
  /** Predicted tokens. */
  readonly tokens: number;
  readonly sequences: number;
}

/**
 * A model's loss on documents: each is tokenised without special tokens and ended by the end-of-text token, all are
 * joined and cut into sequences of `sequenceLength`, and each token but a sequence's first is predicted from those
 * before it in the sequence. A text too short for one sequence is one shorter sequence.
 *
 * @throws {RangeError} when the documents have fewer than two tokens
 */
export async function evaluate(
  runner: ModelRunner,
  router: PreGatingRouter,
  tokenizer: Tokenizer,
  documents: Iterable<string>,
  options: EvaluateOptions = {},
): Promise<Evaluation> {
  return evaluateSequences(runner, router, tokenSequences(runner.model, tokenizer, documents, options), options);
}

/** The sequences that `evaluate` predicts; throws alike. */
export function tokenSequences(
  { config }: Pick<Model, "config">,
  tokenizer: Tokenizer,
  documents: Iterable<string>,
  options: Pick<EvaluateOptions, "sequenceLength" | "maxSequences"> = {},
): readonly Int32Array[] {
  const sequenceLength = integerOption("sequenceLength", options.sequenceLength ?? 512, 2, config.contextTokens);
  const maxSequences = integerOption("maxSequences", options.maxSequences ?? 8, 1);
  const endOfText = endOfTextId(tokenizer, config.eosTokenIds);
  const sequences = cutSequences(documents, tokenizer, endOfText, sequenceLength, maxSequences);
  if (sequences.length === 0) throw new RangeError("Expected `documents` to hold at least two tokens");
  return sequences;
}

/** `evaluate`, with the sequences made already. @param sequences - at least one, each of at least two tokens */
export async function evaluateSequences(
  runner: ModelRunner,
  router: PreGatingRouter,
  sequences: readonly Int32Array[],
  options: Pick<EvaluateOptions, "signal" | "onProgress"> = {},
): Promise<Evaluation> {
  const longest = Math.max(...sequences.map((sequence) => sequence.length));
  const pool = new KvPool({ shape: runner.kvShape, capacityTokens: wholeBlocks(longest) });
  let sum = 0;
  let tokens = 0;
  for (const [index, tokenIds] of sequences.entries()) {
    options.signal?.throwIfAborted();
    const state = router.start();
    const [route] = await router.route([{ state, tokenIds }]);
    router.release(state);
    const logitsOf = upFrom(0, tokenIds.length - 1);
    const experts = route?.experts ?? [];
    const slot = pool.admit(tokenIds.length) as KvSlot;
    const targets = tokenIds.subarray(1);
    const [result] = await runner.forward(pool, [{ slot, tokenIds, experts, logitsOf, targets }]);
    pool.release(slot);
    for (const logProb of result?.targetLogProbs ?? []) sum -= logProb;
    tokens += logitsOf.length;
    options.onProgress?.({ sequences: index + 1, of: sequences.length });
  }
  const loss = sum / tokens;
  return { loss, perplexity: Math.exp(loss), tokens, sequences: sequences.length };
}

/** The token that models see between documents in training; chat models end a turn with another one. */
function endOfTextId(tokenizer: Tokenizer, eosTokenIds: readonly number[]): number {
  for (const text of ["<|endoftext|>", "<|end_of_text|>", "</s>"]) {
    const id = tokenizer.tokenId(text);
    if (id !== undefined) return id;
  }
  return eosTokenIds[0] ?? 0;
}

function cutSequences(
  documents: Iterable<string>,
  tokenizer: Tokenizer,
  endOfText: number,
  length: number,
  maxSequences: number,
): readonly Int32Array[] {
  const joined: number[] = [];
  for (const text of documents) {
    for (const id of tokenizer.encode(text, { addSpecialTokens: false })) joined.push(id);
    joined.push(endOfText);
    if (joined.length >= length * maxSequences) break;
  }
  const count = Math.min(maxSequences, Math.floor(joined.length / length));
  if (count === 0) return joined.length < 2 ? [] : [Int32Array.from(joined)];
  return upFrom(0, count).map((index) => Int32Array.from(joined.slice(index * length, (index + 1) * length)));
}
