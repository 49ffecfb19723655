// What a sequence wants of the graph. Candidates that cannot decide cost a second run of the row's step, full logits
// a copy (0.2 MB) and one pass over it; so a row asks for candidates alone only where they nearly always decide.

import type { ResolvedSamplingParams } from "./sampling-params.ts";

// Enough for every one of 845 rows of SmolLM2-135M (text of five kinds) at the least min-p that relies on them;
// 64 were enough for 97.6 %, and at min-p 0.01 these were enough for 91 %.
const MIN_P_CANDIDATES = 128;
const LEAST_MIN_P = 0.05;
// Above this, ranking full logits here is no slower than the graph's ranking.
const MOST_TOP_K = 1024;

/** How many of the best tokens the graph should give for each row of a sequence, from 1 to `vocabSize`. */
export function candidatesNeeded(params: ResolvedSamplingParams): number {
  const { temperature, topK, vocabSize, logprobs = 0 } = params;
  const numMasked = params.minTokens > 0 ? params.maskedUntilMinTokens.size : 0;
  const toKeep = temperature === 0 ? 1 : topK > 0 ? topK : MIN_P_CANDIDATES;
  const toChoose = needsFullLogits(params) ? 1 : toKeep + numMasked;
  return Math.min(vocabSize, Math.max(toChoose, logprobs));
}

/**
 * Whether the graph should give all logits for each row of a sequence.
 *
 * For top-p alone, at 0.9, 64 candidates decide 77 % of the rows above and 256 decide 79 %; unrestricted it is 72 %
 * for any number, as `logSumExp` is too rough where many tokens share the last percents. So both want full logits.
 */
export function needsFullLogits(params: ResolvedSamplingParams): boolean {
  const { repetitionPenalty, presencePenalty, frequencyPenalty, logitBias, temperature, topK, minP } = params;
  // A token that is no candidate may rise, or the candidates fall below it.
  if (repetitionPenalty !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0 || logitBias.size > 0) return true;
  if (temperature === 0) return false;
  if (topK > 0) return topK > MOST_TOP_K;
  return minP < LEAST_MIN_P;
}
