// What schedulers choose from: sequences with the chunk that each would run.

import { byPriorityThenArrival, nextChunkTokens, type SchedulableSequence, type SchedulerState } from "./scheduler.ts";

/** A sequence with what it would run in the next step. */
export interface Candidate {
  readonly sequence: SchedulableSequence;
  /** Tokens of its next chunk. */
  readonly numTokens: number;
  /** Whether it has one token to run. A prompt's last token may be alone in its chunk, and costs the same. */
  readonly isDecoding: boolean;
}

/** How long a sequence waits at most before it goes first, where a scheduler is not told otherwise. */
export const DEFAULT_MAX_DELAY_MS = 500;

/** One for each sequence, in order of priority, then of arrival. */
export function candidatesOf({ sequences, limits }: SchedulerState): readonly Candidate[] {
  return sequences.toSorted(byPriorityThenArrival).map((sequence) => ({
    sequence,
    numTokens: nextChunkTokens(sequence, limits.chunkTokens),
    isDecoding: sequence.numTokens - sequence.numComputedTokens === 1,
  }));
}

/** Candidates of one priority after those of another, the highest first. */
export function priorityClasses(candidates: readonly Candidate[]): readonly (readonly Candidate[])[] {
  const priorities = new Set(candidates.map(({ sequence }) => sequence.priority));
  return Array.from(priorities, (priority) => candidates.filter(({ sequence }) => sequence.priority === priority));
}

/**
 * Who has waited longest, where that is more than `maxDelayMs`, whatever its priority; `undefined` when nobody has.
 *
 * A scheduler that takes it first lets nobody wait longer than `maxDelayMs` and one step for each sequence that holds KV
 * memory: those before it in this order have waited longer, and leave the order when they run. It takes no more than
 * this one: where many have waited, a step of all of them would need all their experts.
 */
export function longestOverdue(
  candidates: readonly Candidate[],
  nowMs: number,
  maxDelayMs: number,
): Candidate | undefined {
  let longest: Candidate | undefined;
  for (const candidate of candidates) {
    const { waitingSinceMs } = candidate.sequence;
    if (nowMs - waitingSinceMs <= maxDelayMs) continue;
    if (!longest || waitingSinceMs < longest.sequence.waitingSinceMs) longest = candidate;
  }
  return longest;
}
