// Which sequences run in a step, with how many tokens. A scheduler is a pure function over plain data; what it
// decides on is known before anything is computed: lengths, arrival, and the experts of the next tokens.

import type { CostModel } from "./cost-model.ts";

/** A sequence as a scheduler sees it. */
export interface SchedulableSequence {
  readonly id: string;
  /** Order of arrival; unique. */
  readonly arrival: number;
  readonly arrivalMs: number;
  readonly priority: number;
  /** Tokens that are known: the prompt, and what was generated. */
  readonly numTokens: number;
  /** Of them, those whose keys and values are in the KV cache; at least one is not. */
  readonly numComputedTokens: number;
  /** Tokens that were generated so far. */
  readonly completionTokens: number;
  /** Experts of the tokens that are not computed yet, `[numTokens - numComputedTokens]`. */
  readonly nextExperts: ArrayLike<number>;
  /** Since when it can run and does not: since the end of its last step, or since it came to hold KV memory. */
  readonly waitingSinceMs: number;
}

/** What a scheduler decides from. Plain data; a scheduler leaves it unchanged. */
export interface SchedulerState {
  /** Sequences that hold KV memory and can run, in no particular order. */
  readonly sequences: readonly SchedulableSequence[];
  readonly nowMs: number;
  readonly limits: SchedulerLimits;
  /** What a step is predicted to take. */
  readonly cost: CostModel;
  /** Bytes of each expert that are not in memory, by expert; those past its end are all there. */
  readonly missingBytes: ArrayLike<number>;
}

/** What a step may hold at most. */
export interface SchedulerLimits {
  /** Sequences in one step. */
  readonly maxNumBatchedSeqs: number;
  /** Tokens in one step. */
  readonly maxNumBatchedTokens: number;
  /** Prefill runs in pieces that end at multiples of this, at the same places whatever else runs. */
  readonly chunkTokens: number;
}

/** A sequence's part in a step. */
export interface ScheduledSequence {
  readonly id: string;
  /** Tokens to run now: `nextChunkTokens` of the sequence. */
  readonly numTokens: number;
}

/**
 * Decides one step.
 *
 * Called once per step, and again when the step has run; leaves `state` unchanged.
 *
 * @returns distinct sequences of the state, each with the tokens of its next chunk, within the limits; at least one
 *   when there are sequences. A chunk that alone exceeds `maxNumBatchedTokens` never occurs: limits are checked when an engine opens
 */
export type Scheduler = (state: SchedulerState) => readonly ScheduledSequence[];

/**
 * Tokens that a sequence runs next: one when it decodes, else up to the next multiple of `chunkTokens`. Chunks begin
 * and end at the same positions each time, so that a prompt computed again gives the same bits.
 */
export function nextChunkTokens(
  { numTokens, numComputedTokens }: Pick<SchedulableSequence, "numTokens" | "numComputedTokens">,
  chunkTokens: number,
): number {
  const chunkEnd = (Math.floor(numComputedTokens / chunkTokens) + 1) * chunkTokens;
  return Math.min(numTokens, chunkEnd) - numComputedTokens;
}

/** Compares sequences: who goes first is smaller. */
export function byPriorityThenArrival(
  a: Pick<SchedulableSequence, "priority" | "arrival">,
  b: Pick<SchedulableSequence, "priority" | "arrival">,
): number {
  return b.priority - a.priority || a.arrival - b.arrival;
}
