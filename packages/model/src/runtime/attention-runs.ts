// How the sequences of a step are put into the graph's attention groups: `decode`, `decodeOther` and `continued` are each
// a range of slots of one arena, `fresh` are prompts without a past. What does not fit into one run of the graph takes
// another. A sequence with one token always decodes: products of one row are computed otherwise than those of many.

import type { ArenaSlot } from "../kv/kv-slot.ts";

/** Places of sequences in the step's list. */
export interface AttentionRun {
  /** One token each, of one arena. */
  readonly decode: readonly number[];
  /** One token each, of the other arena. */
  readonly decodeOther: readonly number[];
  /** One chunk of prefill with a past. */
  readonly continued: readonly number[];
  /** Without a past. */
  readonly fresh: readonly number[];
}

interface Placed {
  readonly slot: ArenaSlot;
  readonly tokenIds: ArrayLike<number>;
}

/** Nearly always one run; more when several prompts continue. */
export function attentionRuns(sequences: readonly Placed[]): readonly AttentionRun[] {
  const short: number[] = [];
  const long: number[] = [];
  const chunks: number[] = [];
  const fresh: number[] = [];
  sequences.forEach(({ slot, tokenIds }, index) => {
    if (tokenIds.length === 1) (slot.arena === "short" ? short : long).push(index);
    else if (slot.numTokens > 0) chunks.push(index);
    else fresh.push(index);
  });
  const [decode = [], decodeOther = []] = [short, long].filter((group) => group.length > 0);
  const first = { decode, decodeOther, continued: chunks.slice(0, 1), fresh };
  return [first, ...chunks.slice(1).map((index) => ({ decode: [], decodeOther: [], continued: [index], fresh: [] }))];
}
