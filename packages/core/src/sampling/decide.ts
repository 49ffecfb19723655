// The choice among ranked tokens, and bounds of the total weight if only some tokens are known. `WeightBuckets` makes
// the same choice from a whole row of logits without ranking it; a new truncation goes into both.

import { logSumExpError, weightOf, type LogitsRow } from "./logits.ts";
import type { RankedLogits } from "./ranking.ts";
import type { ResolvedSamplingParams } from "./sampling-params.ts";

/** An interval that contains the total weight of some tokens, relative to the best token's weight. */
export interface WeightBounds {
  readonly low: number;
  readonly high: number;
}

/** Relative difference that float64 sums of the same weights in different orders stay below: 1e6 times 2^-53. */
const SUM_ERROR = 1e-9;

/** Whether the choice depends on the total weight of all tokens: not after top-k or min-p, which exclude most. */
export function needsTotal({ topK, minP }: ResolvedSamplingParams): boolean {
  return topK === 0 && minP === 0;
}

/**
 * Chooses among ranked tokens: applies min-p, top-k and top-p, and finds the survivor that `u` falls on.
 *
 * Each of the three keeps the first tokens of the ranking. After top-k or min-p only the survivors are summed, in their
 * order, so the token does not depend on who ranked them. Otherwise the outcome depends on the total weight of all
 * tokens, and is computed for both ends of `total`, widened by the error of sums. As the total grows the outcome can
 * only move down the ranking, so it is certain if both ends give the same token. A new truncation must keep that.
 *
 * @param ranked - at least one token
 * @param total - total weight of all tokens; `undefined` unless `needsTotal`
 * @param u - in [0, 1)
 * @returns an index into `ranked`, or `undefined` if more tokens must be known
 */
export function decide(
  ranked: RankedLogits,
  params: ResolvedSamplingParams,
  total: WeightBounds | undefined,
  u: number,
): number | undefined {
  const kept = survivors(ranked, params);
  const { sums, isClosed } = kept;
  if (total === undefined && !isClosed) return undefined;
  const sum = sums.at(-1) ?? 0;
  const { low, high } = nucleus(kept, params.topP, total ?? { low: sum, high: sum });
  const error = total === undefined ? 0 : SUM_ERROR;
  // Rounding may put `u` past the last survivor; the last survivor is chosen then.
  const end = isClosed ? sums.length - 1 : sums.length;
  const first = Math.min(
    firstWhere(sums, (cumulative) => cumulative > u * low * (1 - error)),
    end,
  );
  const last = Math.min(
    firstWhere(sums, (cumulative) => cumulative > u * high * (1 + error)),
    end,
  );
  return first === last && first < sums.length ? first : undefined;
}

/** Tokens that top-k and min-p keep, as far as they are ranked. */
interface Survivors {
  /** Cumulative sums of their weights. */
  readonly sums: Float64Array;
  readonly lastWeight: number;
  /** Whether no later token can be a survivor. */
  readonly isClosed: boolean;
}

/**
 * Applies min-p and top-k. vLLM applies min-p first; since it compares with the best token only, the order is free.
 */
function survivors(
  { logits, isComplete }: RankedLogits,
  { temperature, topK, minP }: ResolvedSamplingParams,
): Survivors {
  const best = logits[0] ?? 0;
  const limit = topK > 0 ? Math.min(topK, logits.length) : logits.length;
  const sums = new Float64Array(limit);
  let [sum, lastWeight] = [0, 1];
  for (const [index, logit] of logits.subarray(0, limit).entries()) {
    const weight = weightOf(logit, best, temperature);
    if (weight < minP || weight === 0) return { sums: sums.subarray(0, index), lastWeight, isClosed: true };
    sum += weight;
    sums[index] = sum;
    lastWeight = weight;
  }
  return { sums, lastWeight, isClosed: isComplete || limit === topK };
}

/** Bounds the weight that top-p keeps: the first cumulative sum that reaches `topP` of the total. */
function nucleus({ sums, lastWeight, isClosed }: Survivors, topP: number, total: WeightBounds): WeightBounds {
  if (topP === 1) return total;
  const [leastShare, mostShare] = [topP * total.low, topP * total.high];
  const atLeast = firstWhere(sums, (cumulative) => cumulative >= leastShare);
  const atMost = firstWhere(sums, (cumulative) => cumulative >= mostShare);
  const lastSum = sums.at(-1) ?? 0;
  return {
    low: sums[atLeast] ?? (isClosed ? lastSum : leastShare),
    // Beyond the ranked tokens, the token that reaches the share weighs at most as much as the last ranked one.
    high: sums[atMost] ?? (isClosed ? lastSum : mostShare + lastWeight),
  };
}

/** Finds the first index of a rising array at which the condition holds; its length if there is none. */
function firstWhere(rising: Float64Array, holds: (value: number) => boolean): number {
  let [low, high] = [0, rising.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (holds(rising[middle] ?? Infinity)) high = middle;
    else low = middle + 1;
  }
  return low;
}

/**
 * Bounds the total weight if only some tokens are known. The known weights are summed. Two facts bound the rest, the
 * tail: none of its weights exceeds the last candidate's, and its sum at temperature 1 is what the row's `logSumExp`
 * leaves.
 *
 * From temperature 1 to T a weight w becomes w^(1/T) = w * w^(1/T - 1). If `top` is the largest value of w, the tail's
 * sum s at temperature 1 becomes at most s * top^(1/T - 1) for T < 1 and at least that for T > 1. The other side is
 * n * (s / n)^(1/T), the sum of n equal weights (Jensen's inequality).
 *
 * @param ranked - the row's candidates without the masked ones; not empty
 */
export function boundTotal(
  row: LogitsRow,
  ranked: RankedLogits,
  params: ResolvedSamplingParams,
  numMasked: number,
): WeightBounds {
  const { temperature } = params;
  const best = ranked.logits[0] ?? 0;
  let known = 0;
  for (const logit of ranked.logits) known += weightOf(logit, best, temperature);
  const tail = ranked.isComplete ? { low: 0, high: 0 } : tailWeight(row, ranked, params, numMasked);
  return { low: (known + tail.low) * (1 - SUM_ERROR), high: (known + tail.high) * (1 + SUM_ERROR) };
}

function tailWeight(
  row: LogitsRow,
  ranked: RankedLogits,
  params: ResolvedSamplingParams,
  numMasked: number,
): WeightBounds {
  const { temperature, vocabSize } = params;
  const best = ranked.logits[0] ?? 0;
  const last = row.candidateLogits.at(-1) ?? -Infinity;
  const numUnseenMasked = numMasked - (row.candidateIds.length - ranked.ids.length);
  const numTokens = Math.max(0, vocabSize - row.candidateIds.length - numUnseenMasked);
  const most = numTokens * weightOf(last, best, temperature);
  if (most === 0) return { low: 0, high: 0 };

  const tail = tailAtOne(row, best, numUnseenMasked, logSumExpError(row.logSumExp, vocabSize));
  const tilt = Math.exp((last - best) * (1 / temperature - 1));
  const tilted = (sum: number): number => (sum === 0 ? 0 : sum * tilt);
  const spread = (sum: number): number => numTokens * (sum / numTokens) ** (1 / temperature);
  const [low, high] = temperature < 1 ? [spread(tail.low), tilted(tail.high)] : [tilted(tail.low), spread(tail.high)];
  return { low: Math.min(low, most), high: Math.min(high, most) };
}

/**
 * Bounds the tail's sum at temperature 1: the row's total without the candidates and without what masks may remove.
 */
function tailAtOne(row: LogitsRow, best: number, numUnseenMasked: number, error: number): WeightBounds {
  const total = Math.exp(row.logSumExp - best);
  let known = 0;
  for (const logit of row.candidateLogits) known += weightOf(logit, best, 1);
  // A masked token far above the best remaining one makes all other weights vanish in the sum.
  if (!Number.isFinite(total) || !Number.isFinite(known)) return { low: 0, high: Infinity };
  const largest = weightOf(row.candidateLogits.at(-1) ?? -Infinity, best, 1);
  return {
    low: Math.max(0, total * (1 - error) - known - numUnseenMasked * largest),
    high: Math.max(0, total * (1 + error) - known),
  };
}
