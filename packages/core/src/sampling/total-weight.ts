import { logSumExpError, type LogitsRow } from "./logits-row.ts";
import type { RankedLogits } from "./ranked-logits.ts";
import type { ResolvedSamplingParams } from "./sampling-params.ts";

/** An interval that holds the weight of some tokens, relative to the best one's. */
export interface WeightBounds {
  readonly low: number;
  readonly high: number;
}

/** More than what float64 sums of the same weights in different orders differ by, relatively: 1e6 times 2^-53. */
export const SUM_ERROR = 1e-9;

/** What a token counts for: its probability at this temperature, relative to the best token's, in [0, 1]. */
export function weightOf(logit: number, best: number, temperature: number): number {
  return Math.exp((logit - best) / temperature);
}

/**
 * Bounds of the total when only some tokens are known: those add up, and for the rest, the tail, there are two facts.
 * No weight in it exceeds the last candidate's; and its sum at temperature 1 is what the row's `logSumExp` leaves.
 *
 * From temperature 1 to T a weight w becomes w^(1/T) = w * w^(1/T - 1). With `top` the largest that w can be, the
 * tail's sum s at temperature 1 turns into at most s * top^(1/T - 1) for T < 1 and at least that for T > 1; the other
 * side is n * (s / n)^(1/T), which n equal weights have (Jensen's inequality).
 *
 * @param ranked - the row's candidates less the masked ones; not empty
 */
export function boundTotal(
  row: LogitsRow,
  ranked: RankedLogits,
  params: ResolvedSamplingParams,
  numMasked: number,
): WeightBounds {
  const { temperature } = params;
  const best = ranked.logits[0] as number;
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
  const best = ranked.logits[0] as number;
  const last = row.candidateLogits.at(-1) as number;
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

/** The tail's sum at temperature 1: what the row's total leaves, less what masked tokens may have of it. */
function tailAtOne(row: LogitsRow, best: number, numUnseenMasked: number, error: number): WeightBounds {
  const total = Math.exp(row.logSumExp - best);
  let known = 0;
  for (const logit of row.candidateLogits) known += weightOf(logit, best, 1);
  // Masked tokens far above the best one that is left hide all others.
  if (!Number.isFinite(total) || !Number.isFinite(known)) return { low: 0, high: Infinity };
  const largest = weightOf(row.candidateLogits.at(-1) as number, best, 1);
  return {
    low: Math.max(0, total * (1 - error) - known - numUnseenMasked * largest),
    high: Math.max(0, total * (1 + error) - known),
  };
}
