// What of a model fits into a process of so many bytes, as plain arithmetic.

import { expertBytes, type ExpertLayout } from "@readme-moe/core";
import type { Precision } from "@readme-moe/model";

/** One way to have a model's weights in memory. Bytes. */
export interface Placement {
  readonly model: "read-me" | "dense";
  readonly precision: Precision;
  /** Weights that are always in memory; with `streamed`, all but the experts. */
  readonly weightBytes: number;
  /** Everything besides weights: process, tokenizer, a step's values, keys and values. */
  readonly otherBytes: number;
  /** Experts that come and go. */
  readonly streamed?: ExpertLayout | undefined;
}

export interface PlannedPlacement extends Placement {
  readonly fits: boolean;
  /** The smallest memory that it fits into. */
  readonly leastBytes: number;
  /** What it takes of the memory; when it does not fit, what it would take at least. */
  readonly totalBytes: number;
  /** For experts that come and go, up to all of them; when they do not fit, the least that is of use. */
  readonly expertCacheBytes?: number | undefined;
}

/** A step may need one layer of all experts together. */
export function leastExpertBytes({ numExperts, layerBytes }: ExpertLayout): number {
  return numExperts * Math.max(...layerBytes);
}

/** All that one token needs: below it LRU evicts each unit just before its turn, and hits nothing. */
export function tokenCycleBytes(layout: ExpertLayout): number {
  return expertBytes(layout);
}

/** Each placement within `memoryBytes`; experts that come and go get what is left. */
export function planMemory(placements: readonly Placement[], memoryBytes: number): readonly PlannedPlacement[] {
  return placements.map((placement) => {
    const { weightBytes, otherBytes, streamed } = placement;
    const fixedBytes = weightBytes + otherBytes;
    if (!streamed) {
      return { ...placement, fits: fixedBytes <= memoryBytes, leastBytes: fixedBytes, totalBytes: fixedBytes };
    }
    const least = leastExpertBytes(streamed);
    const all = streamed.numExperts * expertBytes(streamed);
    const expertCacheBytes = Math.max(least, Math.min(all, Math.floor(memoryBytes - fixedBytes)));
    const leastBytes = fixedBytes + least;
    const totalBytes = fixedBytes + expertCacheBytes;
    return { ...placement, fits: leastBytes <= memoryBytes, leastBytes, totalBytes, expertCacheBytes };
  });
}

/** The smallest memory that anything fits into. At least one placement. */
export function leastMemoryBytes(plans: readonly PlannedPlacement[]): number {
  return Math.min(...plans.map(({ leastBytes }) => leastBytes));
}
