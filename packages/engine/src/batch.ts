import type { ScheduledSequence } from "@readme-moe/core";
import type { Sequence } from "./sequence.ts";

/** One sequence's part in a step. */
export interface BatchItem {
  readonly sequence: Sequence;
  /** Tokens that run now, from the first that is not computed yet. */
  readonly numTokens: number;
  /** Whether these are its last known tokens, so that the next one is to be chosen. */
  readonly isLast: boolean;
}

export function batchItems(
  scheduled: readonly ScheduledSequence[],
  running: ReadonlyMap<string, Sequence>,
): readonly BatchItem[] {
  return scheduled.map(({ id, numTokens }) => {
    const sequence = running.get(id);
    if (!sequence) throw new RangeError(`Expected the scheduler to choose from sequences that run, got \`${id}\``);
    const end = sequence.numComputedTokens + numTokens;
    if (numTokens < 1 || end > sequence.numTokens) {
      throw new RangeError(`Expected the scheduler to choose tokens that ${id} has, got ${numTokens}`);
    }
    return { sequence, numTokens, isLast: end === sequence.numTokens };
  });
}

/** The distinct experts of a step. */
export function expertsOf(batch: readonly BatchItem[]): ReadonlySet<number> {
  return new Set(
    batch.flatMap(({ sequence, numTokens }) => {
      const from = sequence.numComputedTokens;
      return sequence.experts.slice(from, from + numTokens);
    }),
  );
}
