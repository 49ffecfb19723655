// The choice of one sequence's next token from a row of logits, and its log-probabilities.

import { boundTotal, decide, needsTotal } from "./decide.ts";
import {
  changesLogits,
  checkRow,
  maskedTokens,
  noTokenLeft,
  withPenalties,
  type LogitsRow,
  type TokenCounts,
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
//   chooseByBounds          the best logits of the full row, with the same bounds
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
  const id = chooseAmongCandidates(row, params, counts, u) ?? chooseAmongAll(row, params, counts, u);
  if (id === undefined) return undefined;
  const logit = row.fullLogits?.[id] ?? row.candidateLogits[row.candidateIds.indexOf(id)] ?? -Infinity;
  return { id, logprob: logprobOf(logit, row) };
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

function chooseAmongCandidates(
  row: LogitsRow,
  params: ResolvedSamplingParams,
  counts: TokenCounts,
  u: number,
): number | undefined {
  if (changesLogits(params, counts)) return undefined;
  const masked = maskedTokens(params, counts);
  const ranked = rankedCandidates(row, masked, params.vocabSize);
  if (ranked.ids.length === 0) {
    if (ranked.isComplete) throw noTokenLeft();
    return undefined;
  }
  if (params.temperature === 0) return ranked.ids[0];
  const total = needsTotal(params) ? boundTotal(row, ranked, params, masked.size) : undefined;
  const index = decide(ranked, params, total, u);
  return index === undefined ? undefined : ranked.ids[index];
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
  if (isUnchanged) {
    const best = row.candidateLogits[0];
    return chooseByBounds(row, fullLogits, params, u) ?? chooseExactly(fullLogits, params, u, best);
  }
  return withPenalties(fullLogits, params, counts, () => chooseExactly(fullLogits, params, u));
}

/** Chooses by bounds of the total weight, which decide most rows without an exponential for each token. */
function chooseByBounds(
  row: LogitsRow,
  fullLogits: Float32Array,
  params: ResolvedSamplingParams,
  u: number,
): number | undefined {
  // A ranking of the same length by the step itself has already failed to decide.
  if (params.temperature === 0 || !needsTotal(params) || row.candidateIds.length >= FEW) return undefined;
  const ranked = bestLogits(fullLogits, FEW);
  const candidates = { ...row, candidateIds: ranked.ids, candidateLogits: ranked.logits };
  const index = decide(ranked, params, boundTotal(candidates, ranked, params, 0), u);
  return index === undefined ? undefined : ranked.ids[index];
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
    const ranked = bestLogits(logits, size);
    const index = decide(ranked, params, undefined, u);
    const id = index === undefined ? undefined : ranked.ids[index];
    if (id !== undefined) return id;
  }
  throw noTokenLeft();
}
