// Rows of logits: what a step has to compute of a row, and how sampling parameters change it before a token is chosen.

import { ReadMeError } from "../errors.ts";
import type { ResolvedSamplingParams } from "./sampling-params.ts";

/** The model's output for the next token of one sequence, before any sampling parameter applies. */
export interface LogitsRow {
  /** Tokens with the largest logits, largest first; among equals the lower id first. May be empty. */
  readonly candidateIds: Int32Array;
  /** Logits of `candidateIds`, in the same order. */
  readonly candidateLogits: Float32Array;
  /** Log-sum-exp of all logits, at temperature 1; at most `logSumExpError` from the exact value. */
  readonly logSumExp: number;
  /**
   * All logits, `[vocabSize]`, if the step computed them or they were read after it. Sampling changes them temporarily
   * and restores them.
   */
  readonly fullLogits: Float32Array | undefined;
}

/** A row, and a bit mask of the tokens that may be chosen; bits beyond the vocabulary are ignored. */
export interface BoundRow extends LogitsRow {
  /** @default all may be chosen */
  readonly mask?: Int32Array | undefined;
}

/** Tells whether a bit mask allows a token. */
export function allowsToken(mask: Int32Array, id: number): boolean {
  return (((mask[id >> 5] ?? 0) >>> (id & 31)) & 1) === 1;
}

/** Reads a token's logit, if the row holds it. */
export function knownLogit({ candidateIds, candidateLogits, fullLogits }: LogitsRow, id: number): number | undefined {
  return fullLogits?.[id] ?? candidateLogits[candidateIds.indexOf(id)];
}

/** Computes a token's weight: its probability at this temperature, relative to the best token's, in [0, 1]. */
export function weightOf(logit: number, best: number, temperature: number): number {
  return Math.exp((logit - best) / temperature);
}

const MAX_BLOCK = 512;

/**
 * Chooses how many neighbouring logits are summed into one block before the blocks are summed. The block size is about
 * the square root of `vocabSize` and divides it. One float32 sum of all logits has an error of 1e-4 or more; sums of
 * blocks have an error of a few roundings.
 */
export function logSumExpBlock(vocabSize: number): number {
  let block = Math.min(MAX_BLOCK, Math.ceil(Math.sqrt(vocabSize)));
  while (vocabSize % block !== 0) block--;
  return block;
}

/**
 * Bounds the error of a row's `logSumExp`: the relative error of float32 sums of blocks and of their sums in any
 * order, plus the roundings of exponentials, of the logarithm and of the value itself. The bound is 4e-5 for a
 * vocabulary of 49,152; the largest error measured on 1,074 rows of SmolLM2-135M was 6e-6 (onnxruntime 1.30.0).
 */
export function logSumExpError(logSumExp: number, vocabSize: number): number {
  const block = logSumExpBlock(vocabSize);
  return (block + vocabSize / block + 32) * 2 ** -24 + (8 + 2 * Math.abs(logSumExp)) * 2 ** -23;
}

/**
 * Checks that a row is finite. NaN, `Infinity`, and a row of nothing but `-Infinity` all show in `logSumExp`.
 * @throws {ReadMeError} `ERR_RUNTIME` if it is not
 */
export function checkRow({ logSumExp }: LogitsRow): void {
  if (Number.isFinite(logSumExp)) return;
  throw new ReadMeError("ERR_RUNTIME", `The model's logits are not finite: their log-sum-exp is ${logSumExp}`);
}

/** Creates the error of a row that penalties, bias and masks left without a token. */
export function noTokenLeft(): ReadMeError {
  return new ReadMeError("ERR_RUNTIME", "No token can be chosen: every logit of the row is `-Infinity`");
}

// 128 candidates were enough for all of 845 rows of SmolLM2-135M (text of five kinds) at LEAST_MIN_P, and for 91 % at
// min-p 0.01; 64 were enough for 97.6 %. The kernel ranks them faster than one pass over the vocabulary takes here.
const CANDIDATES = 128;
const LEAST_MIN_P = 0.05;
// Above this, ranking full logits here is no slower than the kernel's ranking.
const MOST_TOP_K = 1024;

/**
 * Computes how many of the best tokens a step should return for each row of a sequence, from 1 to `vocabSize`.
 *
 * @param isBound - whether masks forbid tokens, often the best ones
 */
export function candidatesNeeded(params: ResolvedSamplingParams, isBound = false): number {
  const { temperature, topK, vocabSize, logprobs = 0 } = params;
  const numMasked = params.minTokens > 0 ? params.maskedUntilMinTokens.size : 0;
  const least = isBound ? CANDIDATES : 1;
  const toKeep = temperature === 0 ? least : topK > 0 ? Math.max(topK, least) : CANDIDATES;
  // Candidates are no help if every logit may change, or if there would be too many of them to rank.
  const isUseless = changesAnyLogit(params) || topK > MOST_TOP_K;
  const toChoose = isUseless ? 1 : toKeep + numMasked;
  return Math.min(vocabSize, Math.max(toChoose, logprobs));
}

/**
 * Decides whether a step should return all logits for each row of a sequence. Copying a row takes 0.2 MB. If
 * candidates do not decide and the row cannot be read later, the step of that row runs again.
 *
 * In 1,074 rows of SmolLM2-135M, 128 candidates decide 92 % in text and 97 % in answers at top-p 0.95, and 91 and 96 %
 * without top-p; at temperature 0.8 82 and 91 %, at 1.2 48 and 73 %. A step of 16 rows nearly always has some rows
 * that they do not decide.
 *
 * @param canReadLater - whether the full logits of the row can still be read after the step
 * @param isBound - whether masks forbid tokens, often the best ones
 */
export function needsFullLogits(params: ResolvedSamplingParams, canReadLater = false, isBound = false): boolean {
  const { temperature, topK, minP } = params;
  // A mask of one token decides without logits, and no number of candidates is sure to hold an allowed one.
  if (isBound) return !canReadLater;
  if (changesAnyLogit(params)) return true;
  if (temperature === 0) return false;
  if (topK > 0) return topK > MOST_TOP_K;
  return minP < LEAST_MIN_P && !canReadLater;
}

/** Whether a token that is no candidate may overtake the candidates. */
function changesAnyLogit(params: ResolvedSamplingParams): boolean {
  const { repetitionPenalty, presencePenalty, frequencyPenalty, logitBias } = params;
  return repetitionPenalty !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0 || logitBias.size > 0;
}

/** Counts of the tokens of one sequence; penalties depend on them. The sequence keeps them up to date. */
export class TokenCounts {
  /** Distinct ids of the prompt. */
  readonly prompt: ReadonlySet<number>;
  readonly #completion = new Map<number, number>();
  #numCompletionTokens = 0;

  constructor(promptIds: Iterable<number> = []) {
    this.prompt = new Set(promptIds);
  }

  /** Number of occurrences of each id of the completion, in the order of first occurrence. */
  get completion(): ReadonlyMap<number, number> {
    return this.#completion;
  }

  get numCompletionTokens(): number {
    return this.#numCompletionTokens;
  }

  /** Counts the completion's next token. */
  add(id: number): void {
    this.#completion.set(id, (this.#completion.get(id) ?? 0) + 1);
    this.#numCompletionTokens++;
  }
}

const MAX_FLOAT32 = (2 - 2 ** -23) * 2 ** 127;

/** Whether bias or penalties would change any logit; masks are not considered. */
export function changesLogits(params: ResolvedSamplingParams, counts: TokenCounts): boolean {
  const { repetitionPenalty, presencePenalty, frequencyPenalty, logitBias } = params;
  if (logitBias.size > 0) return true;
  const hasCompletion = counts.completion.size > 0;
  if (repetitionPenalty !== 1 && (hasCompletion || counts.prompt.size > 0)) return true;
  return (presencePenalty !== 0 || frequencyPenalty !== 0) && hasCompletion;
}

const NONE: ReadonlySet<number> = new Set();

/** Lists the tokens that must not be chosen now: those that end a completion, until it has `minTokens`. */
export function maskedTokens(params: ResolvedSamplingParams, counts: TokenCounts): ReadonlySet<number> {
  return counts.numCompletionTokens < params.minTokens ? params.maskedUntilMinTokens : NONE;
}

/**
 * Changes a row of logits in place, in vLLM's order: bias is added; masked tokens get `-Infinity`; the repetition
 * penalty divides positive logits and multiplies the others; frequency and presence penalties are subtracted. The
 * arithmetic is float64, rounded when stored.
 *
 * The repetition penalty applies to tokens of prompt and completion (CTRL, arXiv 1909.05858, section 4.1), the other
 * penalties to tokens of the completion alone, as OpenAI's do.
 *
 * @param logits - `[vocabSize]`
 */
export function applyPenalties(logits: Float32Array, params: ResolvedSamplingParams, counts: TokenCounts): void {
  const { logitBias, repetitionPenalty, presencePenalty, frequencyPenalty } = params;
  const change = (id: number, changed: (logit: number) => number): void => {
    const logit = logits[id];
    if (logit !== undefined) logits[id] = changed(logit);
  };
  for (const [id, bias] of logitBias) change(id, (logit) => logit + bias);
  for (const id of maskedTokens(params, counts)) logits[id] = -Infinity;
  if (repetitionPenalty !== 1) {
    for (const id of counts.prompt) {
      if (!counts.completion.has(id)) change(id, (logit) => repeated(logit, repetitionPenalty));
    }
  }
  for (const [id, count] of counts.completion) {
    change(id, (logit) => repeated(logit, repetitionPenalty) - frequencyPenalty * count - presencePenalty);
  }
}

/** Runs `action` while bias, masks and penalties are applied to `logits`, then restores `logits`. */
export function withPenalties<Result>(
  logits: Float32Array,
  params: ResolvedSamplingParams,
  counts: TokenCounts,
  action: () => Result,
): Result {
  const ids = touchedTokens(params, counts);
  const before = Float32Array.from(ids, (id) => logits[id] ?? 0);
  try {
    applyPenalties(logits, params, counts);
    return action();
  } finally {
    for (const [index, id] of ids.entries()) logits[id] = before[index] ?? 0;
  }
}

/** Lists the ids whose logits `applyPenalties` may change; an id may occur more than once. */
function touchedTokens(params: ResolvedSamplingParams, counts: TokenCounts): readonly number[] {
  const ids = [...params.logitBias.keys(), ...maskedTokens(params, counts), ...counts.completion.keys()];
  return params.repetitionPenalty === 1 ? ids : ids.concat([...counts.prompt]);
}

function repeated(logit: number, penalty: number): number {
  // A penalty near 0 must not make a logit infinite: the difference of two infinities would be NaN.
  return logit > 0 ? Math.min(logit / penalty, MAX_FLOAT32) : logit * penalty;
}
