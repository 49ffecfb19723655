// Which of the ways that fit to take.

import type { PlannedPlacement } from "./plan-memory.ts";

export interface Candidate extends PlannedPlacement {
  /** Expected time by output token; only compared. */
  readonly msPerToken: number;
}

export interface Recommendation {
  readonly chosen: Candidate;
  /** The best of the other model, where it fits. */
  readonly instead: Candidate | undefined;
}

/** A dense model answers at least as well as experts that were cut out of it, so they have to be clearly faster. */
const WORTH_IT = 0.9;

/**
 * Of each model eight bits go before four, and weights that stay in memory before those that come and go; float32 takes
 * more memory, and is no faster. Of the two models the dense one, unless the other takes a tenth less time.
 *
 * @returns `undefined` when nothing fits
 */
export function recommend(candidates: readonly Candidate[]): Recommendation | undefined {
  const readMe = bestOf(candidates, "read-me");
  const dense = bestOf(candidates, "dense");
  if (!readMe || !dense) {
    const chosen = readMe ?? dense;
    return chosen && { chosen, instead: undefined };
  }
  const isWorthIt = readMe.msPerToken <= WORTH_IT * dense.msPerToken;
  return isWorthIt ? { chosen: readMe, instead: dense } : { chosen: dense, instead: readMe };
}

function bestOf(candidates: readonly Candidate[], model: Candidate["model"]): Candidate | undefined {
  const fitting = candidates.filter((candidate) => candidate.model === model && candidate.fits);
  return fitting.toSorted((a, b) => rankOf(a) - rankOf(b))[0];
}

function rankOf({ precision, streamed }: Candidate): number {
  if (streamed) return 2;
  return { int8: 0, int4: 1, fp32: 3 }[precision];
}
