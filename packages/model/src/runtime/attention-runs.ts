// How the sequences of a step are put into the graph's attention groups: `decode` and `continued` are each a range of
// slots of one arena, `fresh` are prompts without a past. What does not fit into one run of the graph takes another.

import type { KvSlot } from "../kv/kv-slot.ts";

/** Places of sequences in the step's list. */
export interface AttentionRun {
  /** One token each, of one arena. */
  readonly decode: readonly number[];
  /** With a past: one chunk of prefill, or decoding sequences of the other arena. */
  readonly continued: readonly number[];
  /** Without a past. */
  readonly fresh: readonly number[];
}

interface Placed {
  readonly slot: KvSlot;
  readonly tokenIds: ArrayLike<number>;
}

/** Nearly always one run; more when several prompts continue, or one does beside decoding sequences of both arenas. */
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
  const [decode, ...others] = [short, long].filter((group) => group.length > 0);
  const continued = [...others, ...chunks.map((index) => [index])];
  const first = { decode: decode ?? [], continued: continued[0] ?? [], fresh };
  return [first, ...continued.slice(1).map((group) => ({ decode: [], continued: group, fresh: [] }))];
}
