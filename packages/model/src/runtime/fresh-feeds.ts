import { KvPool } from "../kv/kv-pool.ts";
import { wholeBlocks, type KvShape } from "../kv/kv-shape.ts";
import type { ArenaSlot } from "../kv/kv-slot.ts";
import { planAttention, type Feeds } from "./attention-feeds.ts";

/**
 * What attention takes of whole sequences without a past, laid end to end: for graphs that take hidden states, not ids.
 * A layer's graph is fed with the same as all others'.
 *
 * @param shape - of the graph, with as many layers as it has
 * @param lengths - tokens of each sequence, at least one
 */
export function freshFeeds(shape: KvShape, lengths: readonly number[]): Feeds {
  const capacityTokens = lengths.reduce((sum, length) => sum + wholeBlocks(length), 0);
  const pool = new KvPool({ shape, capacityTokens });
  const sequences = lengths.map((length) => ({
    slot: pool.admit(length) as ArenaSlot,
    tokenIds: new Int32Array(length),
  }));
  const run = { decode: [], decodeOther: [], continued: [], fresh: sequences.map((_, index) => index) };
  const { token_ids: _, ...feeds } = planAttention(run, sequences, pool).feeds;
  return feeds;
}
