import type { RankedLogits } from "./ranked-logits.ts";
import type { ResolvedSamplingParams } from "./sampling-params.ts";
import { SUM_ERROR, weightOf, type WeightBounds } from "./total-weight.ts";

/** Whether top-k or min-p bound how many tokens can be chosen, so that only these and not the total weight matter. */
export function isLimited({ topK, minP }: ResolvedSamplingParams): boolean {
  return topK > 0 || minP > 0;
}

/**
 * Chooses among ranked tokens: which of them survive min-p, top-k and top-p, and which survivor `u` falls on.
 *
 * All three keep the first tokens of the ranking. Where top-k or min-p limit them, these alone are added up, in their
 * order, so that the token is the same whoever ranked them. Otherwise the outcome hangs on the total weight of all
 * tokens, and is computed for both ends of `total`, and of what sums may be off by: as it can only move down the
 * ranking as the total grows, it is certain when both give the same token.
 *
 * @param ranked - at least one token
 * @param total - of all tokens; `undefined` if and only if `isLimited`
 * @param u - in [0, 1)
 * @returns an index into `ranked`, or `undefined` when more must be known
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
  const sum = sums.at(-1) as number;
  const { low, high } = nucleus(kept, params.topP, total ?? { low: sum, high: sum });
  const error = total === undefined ? 0 : SUM_ERROR;
  // Rounding may put `u` past the last survivor; it is the last one's then.
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

/** What top-k and min-p keep, as far as it is ranked. */
interface Survivors {
  /** Of their weights, each with all before it. */
  readonly sums: Float64Array;
  readonly lastWeight: number;
  /** Whether no token after these can be a survivor. */
  readonly isClosed: boolean;
}

/** vLLM takes min-p before top-k, but as it only compares with the best token, their order does not matter. */
function survivors(
  { logits, isComplete }: RankedLogits,
  { temperature, topK, minP }: ResolvedSamplingParams,
): Survivors {
  const best = logits[0] as number;
  const limit = topK > 0 ? Math.min(topK, logits.length) : logits.length;
  const sums = new Float64Array(limit);
  let [sum, lastWeight] = [0, 1];
  for (let index = 0; index < limit; index++) {
    const weight = weightOf(logits[index] as number, best, temperature);
    if (weight < minP || weight === 0) return { sums: sums.subarray(0, index), lastWeight, isClosed: true };
    sum += weight;
    sums[index] = sum;
    lastWeight = weight;
  }
  return { sums, lastWeight, isClosed: isComplete || limit === topK };
}

/** Bounds of the weight that top-p keeps: the first running sum that reaches its share of the total. */
function nucleus({ sums, lastWeight, isClosed }: Survivors, topP: number, total: WeightBounds): WeightBounds {
  if (topP === 1) return total;
  const [low, high] = [topP * total.low, topP * total.high];
  const atLow = firstWhere(sums, (cumulative) => cumulative >= low);
  const atHigh = firstWhere(sums, (cumulative) => cumulative >= high);
  const lastSum = sums.at(-1) as number;
  return {
    low: sums[atLow] ?? (isClosed ? lastSum : low),
    // Past what is ranked, the token that reaches the share weighs no more than the last one that is.
    high: sums[atHigh] ?? (isClosed ? lastSum : high + lastWeight),
  };
}

/** The first index of a rising array where the condition holds; its length if nowhere. */
function firstWhere(rising: Float64Array, holds: (value: number) => boolean): number {
  let [low, high] = [0, rising.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (holds(rising[middle] as number)) high = middle;
    else low = middle + 1;
  }
  return low;
}
