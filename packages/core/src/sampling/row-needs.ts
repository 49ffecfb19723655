// Decides which logits a step gives for a row. A copy of all takes 0.2 MB, and some passes over it where the candidates do not decide.
// Candidates that do not decide cost a second run of the row's step where logits cannot be read later.

import type { ResolvedSamplingParams } from "./sampling-params.ts";

// Enough for every one of 845 rows of SmolLM2-135M (text of five kinds) at the least min-p that relies on them;
// 64 were enough for 97.6 %, and at min-p 0.01 these were enough for 91 %. Of rows that come with full logits as well they
// decide nine in ten (see below), and the kernel ranks them in less time than one pass over the vocabulary takes here.
const CANDIDATES = 128;
const LEAST_MIN_P = 0.05;
// Above this, ranking full logits here is no slower than the kernel's ranking.
const MOST_TOP_K = 1024;

/** How many of the best tokens a step should give for each row of a sequence, from 1 to `vocabSize`. */
export function candidatesNeeded(params: ResolvedSamplingParams): number {
  const { temperature, topK, vocabSize, logprobs = 0 } = params;
  const numMasked = params.minTokens > 0 ? params.maskedUntilMinTokens.size : 0;
  const toKeep = temperature === 0 ? 1 : topK > 0 ? topK : CANDIDATES;
  // Ranking so many is no use to the step, nor are candidates where every logit may change.
  const isUseless = changesAnyLogit(params) || topK > MOST_TOP_K;
  const toChoose = isUseless ? 1 : toKeep + numMasked;
  return Math.min(vocabSize, Math.max(toChoose, logprobs));
}

/**
 * Whether a step should give all logits for each row of a sequence.
 *
 * Of 1,074 rows of SmolLM2-135M, 128 candidates decide 92 % in text and 97 % in answers at top-p 0.95, and 91 and 96 %
 * unrestricted; at temperature 0.8 82 and 91 %, at 1.2 48 and 73 %. Of 16 rows in a step some nearly always need all.
 *
 * @param canReadLater - whether rows that turn out to be needed can be read after the step
 */
export function needsFullLogits(params: ResolvedSamplingParams, canReadLater = false): boolean {
  const { temperature, topK, minP } = params;
  if (changesAnyLogit(params)) return true;
  if (temperature === 0) return false;
  if (topK > 0) return topK > MOST_TOP_K;
  return minP < LEAST_MIN_P && !canReadLater;
}

/** A token that is no candidate may rise, or the candidates fall below it. */
function changesAnyLogit(params: ResolvedSamplingParams): boolean {
  const { repetitionPenalty, presencePenalty, frequencyPenalty, logitBias } = params;
  return repetitionPenalty !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0 || logitBias.size > 0;
}
