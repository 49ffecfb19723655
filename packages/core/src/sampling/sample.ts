// The choice of one sequence's next token from a row of logits, and its log-probabilities. `decide` chooses among
// ranked tokens, `WeightBuckets` from a whole row without ranking it; a new truncation goes into both.

import {
  allowsToken,
  changesLogits,
  checkRow,
  knownLogit,
  maskedTokens,
  noTokenLeft,
  withPenalties,
  type BoundRow,
  type LogitsRow,
  type TokenCounts,
  logSumExpError,
  weightOf,
} from "./logits.ts";
import { bestId, bestLogits, rankedCandidates, type RankedLogits, WeightBuckets } from "./ranking.ts";
import type { ResolvedSamplingParams } from "./sampling-params.ts";

// Rankings grow in these steps: the second is rarely needed, sorting the whole vocabulary almost never.
const FEW = 128;
const MANY = 2048;

/** A token's id, in `[0, vocabSize)`, and its log-probability in nats. */
export interface SampledToken {
  readonly id: number;
  /** Log-probability under the model's own distribution, before any sampling parameter; at most 0. */
  readonly logprob: number;
}

// The ways to a token, from the cheapest; each gives the same token as the last one, or none:
//
//   chooseAmongCandidates   the step's candidates, with bounds of the total weight
//   chooseExactly           the full row: rankings that grow, or buckets of weight if the total matters

/**
 * Chooses the next token, as vLLM does, in this order:
 *
 * 1. bias, masks and penalties change the logits (`applyPenalties`);
 * 2. at temperature 0 the largest logit is chosen, the lowest id among equals; `u` is not used;
 * 3. otherwise a token's weight is exp(logit / temperature);
 * 4. min-p keeps tokens that weigh at least `minP` times as much as the heaviest;
 * 5. top-k keeps the `topK` heaviest, the lower ids among equals (vLLM keeps all that equal the last one);
 * 6. top-p keeps the fewest heaviest of these that reach `topP` of their total;
 * 7. `u` times the remaining weight falls on one of the remaining tokens, from the heaviest to the lightest.
 *
 * Deterministic, in float64. Candidates and full logits give the same token: a choice that is uncertain because of the
 * rounding of `logSumExp` or of sums is not made from candidates.
 *
 * @param counts - the sequence's tokens so far
 * @param u - in [0, 1), see `uniformAt`
 * @returns `undefined` if the row's candidates cannot decide and it has no full logits
 * @throws {ReadMeError} `ERR_RUNTIME` if the row is not finite, or no token is left
 */
export function sampleToken(
  row: LogitsRow,
  params: ResolvedSamplingParams,
  counts: TokenCounts,
  u: number,
): SampledToken | undefined {
  checkRow(row);
  const id = chooseAmongCandidates(row, { params, counts, u }) ?? chooseAmongAll(row, params, counts, u);
  return id === undefined ? undefined : sampledFrom(row, id);
}

/** Adds the log-probability of a token that the row holds. */
export function sampledFrom(row: LogitsRow, id: number): SampledToken {
  return { id, logprob: logprobOf(knownLogit(row, id) ?? -Infinity, row) };
}

/**
 * Chooses as `sampleToken` does, but from logits that the caller's `processLogits` has changed.
 *
 * @param row - the model's own row with full logits, which the log-probability refers to
 * @param processed - logits after `processLogits`, `[vocabSize]`
 * @param u - in [0, 1), see `uniformAt`
 * @throws {RangeError} if `processed` has NaN or `Infinity`, or no token
 * @throws {ReadMeError} `ERR_RUNTIME` if the parameters leave none of the tokens in `processed`
 */
export function sampleProcessed(
  row: LogitsRow & { readonly processed: Float32Array },
  params: ResolvedSamplingParams,
  counts: TokenCounts,
  u: number,
): SampledToken {
  const { processed } = row;
  checkProcessed(processed);
  const id = withPenalties(processed, params, counts, () => chooseExactly(processed, params, u));
  return { id, logprob: logprobOf(row.fullLogits?.[id] ?? -Infinity, row) };
}

function checkProcessed(logits: Float32Array): void {
  const wrong = logits.findIndex((logit) => !Number.isFinite(logit) && logit !== -Infinity);
  if (wrong >= 0) {
    const got = `got ${logits[wrong]} for token ${wrong}`;
    throw new RangeError(`Expected \`processLogits\` to leave numbers or \`-Infinity\`, ${got}`);
  }
  if (bestId(logits) !== undefined) return;
  throw new RangeError("Expected `processLogits` to leave a token that can be chosen, got `-Infinity` for all");
}

/** A chosen token and its most likely alternatives. */
export interface TokenLogprobs extends SampledToken {
  /** The most likely tokens, best first. May contain the chosen one; contains no impossible ones. */
  readonly top: readonly SampledToken[];
}

/**
 * Computes log-probabilities under the model's own distribution, before penalties and temperature, as vLLM reports
 * them.
 *
 * @param count - number of most likely tokens, from 0
 * @throws {RangeError} if the row has neither `count` candidates nor full logits
 */
export function tokenLogprobs(row: LogitsRow, chosen: SampledToken, count: number): TokenLogprobs {
  const { ids, logits } = mostLikely(row, count);
  const top = Array.from(ids.subarray(0, count), (id, index) => ({ id, logit: logits[index] ?? -Infinity }))
    .filter(({ logit }) => logit > -Infinity)
    .map(({ id, logit }) => ({ id, logprob: logprobOf(logit, row) }));
  return { ...chosen, top };
}

function mostLikely(
  { candidateIds, candidateLogits, fullLogits }: LogitsRow,
  count: number,
): Pick<RankedLogits, "ids" | "logits"> {
  if (candidateIds.length >= count) return { ids: candidateIds, logits: candidateLogits };
  if (fullLogits !== undefined) return bestLogits(fullLogits, count);
  throw new RangeError(`Expected the row to have ${count} candidates or full logits, got ${candidateIds.length}`);
}

/** Converts a logit to a log-probability. The rounding of `logSumExp` must not give a probability above 1. */
export function logprobOf(logit: number, row: LogitsRow): number {
  return Math.min(0, logit - row.logSumExp);
}

/** A draw: its parameters, the tokens before, and its random number in [0, 1). */
export interface Draw {
  readonly params: ResolvedSamplingParams;
  readonly counts: TokenCounts;
  readonly u: number;
}

/** Chooses as the whole row would, if its candidates decide. @param numAllowed - tokens that the row's mask allows */
export function chooseAmongCandidates(
  row: BoundRow,
  { params, counts, u }: Draw,
  numAllowed: number = params.vocabSize,
): number | undefined {
  if (changesLogits(params, counts)) return undefined;
  const { mask } = row;
  const masked = maskedTokens(params, counts);
  const numLeft = numAllowed - (mask ? Array.from(masked).filter((id) => allowsToken(mask, id)).length : masked.size);
  const ranked = rankedCandidates(row, masked, numLeft);
  if (ranked.ids.length === 0) {
    // Under a mask, all logits tell whether the mask or the parameters leave no token.
    if (ranked.isComplete && !mask) throw noTokenLeft();
    return undefined;
  }
  if (params.temperature === 0) return ranked.ids[0];
  const total = needsTotal(params) ? boundTotal(row, ranked, params, params.vocabSize - numLeft) : undefined;
  return decide(ranked, params, total, u);
}

function chooseAmongAll(
  row: LogitsRow,
  params: ResolvedSamplingParams,
  counts: TokenCounts,
  u: number,
): number | undefined {
  const { fullLogits } = row;
  if (fullLogits === undefined) return undefined;
  const isUnchanged = !changesLogits(params, counts) && maskedTokens(params, counts).size === 0;
  if (isUnchanged) return chooseExactly(fullLogits, params, u, row.candidateLogits[0]);
  return withPenalties(fullLogits, params, counts, () => chooseExactly(fullLogits, params, u));
}

/**
 * Chooses from all logits, which always decide.
 *
 * @param largest - the largest logit, if it is known and finite
 * @throws {ReadMeError} `ERR_RUNTIME` if no token is left
 */
export function chooseExactly(
  logits: Float32Array,
  params: ResolvedSamplingParams,
  u: number,
  largest?: number,
): number {
  const { temperature, topK, topP } = params;
  if (temperature > 0 && !needsTotal(params)) {
    return chooseRanked(logits, [topK > 0 ? topK : FEW, MANY, logits.length], params, u);
  }
  if (temperature > 0 && largest !== undefined) return new WeightBuckets(logits, largest, temperature).choose(topP, u);
  const best = bestId(logits);
  if (best === undefined) throw noTokenLeft();
  if (temperature === 0) return best;
  return new WeightBuckets(logits, logits[best] ?? 0, temperature).choose(topP, u);
}

/** Chooses from rankings of growing sizes, of which the last contains all tokens. */
function chooseRanked(
  logits: Float32Array,
  sizes: readonly number[],
  params: ResolvedSamplingParams,
  u: number,
): number {
  for (const size of sizes) {
    const id = decide(bestLogits(logits, size), params, undefined, u);
    if (id !== undefined) return id;
  }
  throw noTokenLeft();
}

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
 * @returns the token's id, or `undefined` if more tokens must be known
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
  return first === last && first < sums.length ? ranked.ids[first] : undefined;
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
