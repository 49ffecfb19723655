// Decides which placements of a model fit into a process's memory, and recommends one. Plain arithmetic.

import { expertBytes, type ExpertLayout } from "@readme-moe/core";
import type { Precision } from "@readme-moe/model";

/** One way to hold a model's weights in memory. Bytes. */
export interface Placement {
  readonly model: "read-me" | "dense" | "mixture";
  readonly precision: Precision;
  /** Weights that are always in memory: all of them, or all but streamed experts. */
  readonly weightBytes: number;
  /** Everything besides weights: process, tokenizer, a step's values, keys and values. */
  readonly otherBytes: number;
  /** Layout of the experts, if they are streamed. */
  readonly streamed?: ExpertLayout | undefined;
  /** Experts that a layer chooses for a token, of a mixture with a router in every layer. */
  readonly expertsPerToken?: number | undefined;
}

/** Result of fitting a placement into a memory. */
interface Fit {
  readonly fits: boolean;
  /** The smallest memory that the placement fits into. */
  readonly leastBytes: number;
  /** Memory that the placement takes; if it does not fit, the least that it would take. */
  readonly totalBytes: number;
  /** Memory for streamed experts, up to all of them; if they do not fit, the least that is useful. */
  readonly expertCacheBytes?: number | undefined;
}

export type PlannedPlacement<Own extends Placement = Placement> = Own & Fit;

/**
 * Memory for one layer of all experts, which a step may need together. Steps of mixtures are split, so that a token's
 * experts of one layer are enough.
 */
export function leastExpertBytes(
  { numExperts, layerBytes }: ExpertLayout,
  expertsPerToken: number = numExperts,
): number {
  return expertsPerToken * Math.max(...layerBytes);
}

/** Memory for all layers of one expert. With less, LRU evicts each unit just before its use, and hits nothing. */
export function tokenCycleBytes(layout: ExpertLayout): number {
  return expertBytes(layout);
}

/** Fits each placement into `memoryBytes`; streamed experts get what the rest leaves. */
export function planMemory<Own extends Placement>(
  placements: readonly Own[],
  memoryBytes: number,
): readonly PlannedPlacement<Own>[] {
  return placements.map((placement) => {
    const { weightBytes, otherBytes, streamed, expertsPerToken } = placement;
    const fixedBytes = weightBytes + otherBytes;
    if (!streamed) {
      return { ...placement, fits: fixedBytes <= memoryBytes, leastBytes: fixedBytes, totalBytes: fixedBytes };
    }
    const least = leastExpertBytes(streamed, expertsPerToken);
    const all = streamed.numExperts * expertBytes(streamed);
    const expertCacheBytes = Math.max(least, Math.min(all, Math.floor(memoryBytes - fixedBytes)));
    const leastBytes = fixedBytes + least;
    const totalBytes = fixedBytes + expertCacheBytes;
    return { ...placement, fits: leastBytes <= memoryBytes, leastBytes, totalBytes, expertCacheBytes };
  });
}

/** Returns the smallest memory that any of at least one placement fits into. */
export function leastMemoryBytes(plans: readonly PlannedPlacement[]): number {
  return Math.min(...plans.map(({ leastBytes }) => leastBytes));
}

/** A planned placement with its expected time per token, which is only compared. */
export type Candidate = PlannedPlacement & { readonly msPerToken: number };

export interface Recommendation {
  readonly chosen: Candidate;
  /** The best placement of the other model, if one fits. */
  readonly instead: Candidate | undefined;
}

/** A dense model answers at least as well as the experts that were cut out of it, so they must be clearly faster. */
const WORTH_IT = 0.9;

/**
 * Recommends a placement. For each model, eight bits come before four, and weights that stay in memory before streamed
 * ones; float32 takes more memory and is no faster. Between the models, the dense one is chosen unless the other takes
 * a tenth less time.
 *
 * @returns `undefined` when nothing fits
 */
export function recommend(candidates: readonly Candidate[]): Recommendation | undefined {
  const readMe = bestOf(candidates, "read-me") ?? bestOf(candidates, "mixture");
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
  if (streamed) return 3;
  return { file: 0, int8: 1, int4: 2, fp32: 4 }[precision];
}
