import { decide, isLimited } from "./decide.ts";
import { checkRow, noTokenLeft, type LogitsRow } from "./logits-row.ts";
import { changesLogits, maskedTokens, withPenalties } from "./penalties.ts";
import { bestId, bestLogits, rankedCandidates } from "./ranked-logits.ts";
import type { ResolvedSamplingParams } from "./sampling-params.ts";
import type { TokenCounts } from "./token-counts.ts";
import { boundTotal } from "./total-weight.ts";
import { WeightBuckets } from "./weight-buckets.ts";

// Rankings grow in these steps: the second is rarely needed, sorting the whole vocabulary almost never.
const FEW = 128;
const MANY = 2048;

/** A token's id, in `[0, vocabSize)`, and its log-probability in nats. */
export interface SampledToken {
  readonly id: number;
  /** Under the model's own distribution, before any sampling parameter; at most 0. */
  readonly logprob: number;
}

/**
 * Chooses the next token, as vLLM does, in this order:
 *
 * 1. bias, masks and penalties (`applyPenalties`);
 * 2. at temperature 0 the largest logit, the lowest id among equals, and `u` is not looked at;
 * 3. else a token weighs exp(logit / temperature);
 * 4. min-p keeps tokens that weigh at least `minP` times what the heaviest does;
 * 5. top-k keeps the `topK` heaviest, the lower ids among equals (vLLM keeps all that equal the last one);
 * 6. top-p keeps, of those, the fewest heaviest that reach `topP` of their total;
 * 7. `u` times the weight of those that are left falls on one of them, from the heaviest to the lightest.
 *
 * The same for the same arguments, in float64. Candidates and full logits give the same token: what the candidates
 * leave uncertain, by the rounding of `logSumExp` and of sums, is not decided from them.
 *
 * @param counts - the sequence's tokens so far
 * @param u - in [0, 1), see `uniformAt`
 * @returns `undefined` when the row's candidates cannot decide and it has no full logits
 * @throws {ReadMeError} `ERR_RUNTIME` when the row is not finite, or no token is left
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
  const logit = row.fullLogits?.[id] ?? row.candidateLogits[row.candidateIds.indexOf(id)];
  return { id, logprob: logprobOf(logit as number, row) };
}

/** A logit as a log-probability. The rounding of `logSumExp` must not make it a probability above 1. */
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
  const total = isLimited(params) ? undefined : boundTotal(row, ranked, params, masked.size);
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
    return chooseCheaply(row, fullLogits, params, u) ?? chooseExactly(fullLogits, params, u, best);
  }
  return withPenalties(fullLogits, params, counts, () => chooseExactly(fullLogits, params, u));
}

/** Bounds of the total decide most rows, and spare an exponential for each token of the vocabulary. */
function chooseCheaply(
  row: LogitsRow,
  fullLogits: Float32Array,
  params: ResolvedSamplingParams,
  u: number,
): number | undefined {
  // The step's own ranking has failed where it was as long.
  if (params.temperature === 0 || isLimited(params) || row.candidateIds.length >= FEW) return undefined;
  const ranked = bestLogits(fullLogits, FEW);
  const candidates = { ...row, candidateIds: ranked.ids, candidateLogits: ranked.logits };
  const index = decide(ranked, params, boundTotal(candidates, ranked, params, 0), u);
  return index === undefined ? undefined : ranked.ids[index];
}

/**
 * @param largest - of the logits, where it is known, and finite
 * @throws {ReadMeError} `ERR_RUNTIME` when no token is left
 */
export function chooseExactly(
  logits: Float32Array,
  params: ResolvedSamplingParams,
  u: number,
  largest?: number,
): number | undefined {
  const { temperature, topK, topP } = params;
  if (temperature > 0 && isLimited(params)) {
    return chooseRanked(logits, [topK > 0 ? topK : FEW, MANY, logits.length], params, u);
  }
  if (temperature > 0 && largest !== undefined) return new WeightBuckets(logits, largest, temperature).choose(topP, u);
  const best = bestId(logits);
  if (best === undefined) throw noTokenLeft();
  if (temperature === 0) return best;
  return new WeightBuckets(logits, logits[best] as number, temperature).choose(topP, u);
}

function chooseRanked(
  logits: Float32Array,
  sizes: readonly number[],
  params: ResolvedSamplingParams,
  u: number,
): number | undefined {
  for (const size of sizes) {
    const ranked = bestLogits(logits, size);
    if (ranked.ids.length === 0) throw noTokenLeft();
    const index = decide(ranked, params, undefined, u);
    if (index !== undefined) return ranked.ids[index];
  }
  return undefined;
}
