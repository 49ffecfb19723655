// What a step's sequences look like to the graph's attention: one flat list of tokens, and groups of sequences that
// attend together.

import type { KvPool } from "../kv/kv-pool.ts";
import type { ArenaSlot } from "../kv/kv-slot.ts";
import type { AttentionRun } from "./attention-runs.ts";
import { pastFeeds } from "./past-feeds.ts";
import type { GraphTensor } from "./session.ts";

/** Inputs of a graph, by name. */
export type Feeds = Readonly<Record<string, GraphTensor>>;

/** A sequence's next tokens, at least one, after the past in its slot. */
export interface StepTokens {
  readonly slot: ArenaSlot;
  readonly tokenIds: ArrayLike<number>;
}

/** One run of a step, as its attention takes it. */
export interface AttentionPlan {
  /** `token_ids`, `positions`, `group_rows`, `is_plain_decode`, and what the four groups take. */
  readonly feeds: Feeds;
  /** The run's sequences, in the order of their tokens: places in the step's list. */
  readonly order: readonly number[];
  /** By place in `order`: the first token in the flat list; the last entry is their number. */
  readonly firstTokens: readonly number[];
}

/**
 * Lays out the tokens of one run: decoding sequences first, in the order of their slots' memory, then chunks of
 * prefill with
 * a past, then those without. Reads `pool`, and changes nothing.
 *
 * @param all - the step's sequences; `run` has places in it
 */
export function planAttention(run: AttentionRun, all: readonly StepTokens[], pool: KvPool): AttentionPlan {
  const at = (index: number): StepTokens => all[index] as StepTokens;
  // A decoding sequence's token stands where its slot does, so that a step which only decodes needs no rows.
  const bySlot = (indices: readonly number[]): readonly number[] =>
    pool.inMemoryOrder(indices, (index) => at(index).slot);
  const order = [...bySlot(run.decode), ...bySlot(run.decodeOther), ...run.continued, ...run.fresh];
  const sequences = order.map(at);
  const firstTokens = runningSums(sequences.map(({ tokenIds }) => tokenIds.length));

  const groups = new GroupRows(firstTokens.at(-1) as number);
  const decodeEnd = run.decode.length;
  const decodeOtherEnd = decodeEnd + run.decodeOther.length;
  const continuedEnd = decodeOtherEnd + run.continued.length;
  const decode = slotGroup("decode", sequences.slice(0, decodeEnd), 0, pool, groups);
  const decodeRows = groups.numRows;
  const others = sequences.slice(decodeEnd, decodeOtherEnd);
  const decodeOther = slotGroup("decode_other", others, firstTokens[decodeEnd] as number, pool, groups);
  const chunks = sequences.slice(decodeOtherEnd, continuedEnd);
  const continued = slotGroup("continued", chunks, firstTokens[decodeOtherEnd] as number, pool, groups);
  const fresh = freshGroup(sequences.slice(continuedEnd), firstTokens[continuedEnd] as number, groups);
  const isPlain = decodeRows === decodeEnd && order.length === decodeEnd;
  return {
    order,
    firstTokens,
    feeds: {
      token_ids: int64(sequences.flatMap(({ tokenIds }) => Array.from(tokenIds))),
      positions: int64(sequences.flatMap(({ slot, tokenIds }) => upFrom(slot.numTokens, tokenIds.length))),
      ...decode,
      ...decodeOther,
      ...continued,
      ...fresh,
      group_rows: { data: groups.rowOfToken, dims: [groups.rowOfToken.length] },
      is_plain_decode: { data: Uint8Array.of(isPlain ? 1 : 0), dims: [1] },
    },
  };
}

/** Rows of all groups, laid end to end, and which of them each token has. */
class GroupRows {
  readonly rowOfToken: BigInt64Array;
  numRows = 0;

  constructor(numTokens: number) {
    this.rowOfToken = new BigInt64Array(numTokens);
  }
}

/** Sequences in a range of slots of one arena; slots of the range that do not run repeat a token, for nothing. */
function slotGroup(
  name: "decode" | "decode_other" | "continued",
  sequences: readonly StepTokens[],
  firstToken: number,
  pool: KvPool,
  groups: GroupRows,
): Feeds {
  const range = pool.range(sequences.map(({ slot }) => slot));
  if (range.numRows === 0 && name === "continued") return idleGroup(pool, groups);
  const numQueries = Math.max(1, ...sequences.map(({ tokenIds }) => tokenIds.length));
  const tokens = new BigInt64Array(range.numRows * numQueries).fill(BigInt(Math.max(0, firstToken)));
  const pastLengths = new BigInt64Array(range.numRows);
  let token = firstToken;
  for (const [index, { slot, tokenIds }] of sequences.entries()) {
    const row = range.rows[index] as number;
    pastLengths[row] = BigInt(slot.numTokens);
    for (let query = 0; query < tokenIds.length; query++, token++) {
      tokens[row * numQueries + query] = BigInt(token);
      groups.rowOfToken[token] = BigInt(groups.numRows + row * numQueries + query);
    }
  }
  groups.numRows += range.numRows * numQueries;
  return {
    [`${name}.tokens`]: { data: tokens, dims: name === "continued" ? [range.numRows, numQueries] : [range.numRows] },
    [`${name}.past_lengths`]: { data: pastLengths, dims: [range.numRows] },
    ...pastFeeds(name, pool, range),
  };
}

// A group has to have a row, see `attention`: one that nobody needs repeats the step's first token.
const IDLE_TOKENS: GraphTensor = { data: BigInt64Array.of(0n), dims: [1, 1] };

function idleGroup(pool: KvPool, groups: GroupRows): Feeds {
  groups.numRows += 1;
  const { numKvHeads, headSize } = pool.shape;
  return {
    "continued.tokens": IDLE_TOKENS,
    "continued.past_lengths": int64([0]),
    ...pastFeeds("continued", pool, { start: 0, end: 0, dims: [1, numKvHeads, 1, 0, headSize] }),
  };
}

/** Prompts from their first token on; shorter ones repeat their last token, for nothing. */
function freshGroup(sequences: readonly StepTokens[], firstToken: number, groups: GroupRows): Feeds {
  if (sequences.length === 0) {
    groups.numRows += 1;
    return { "fresh.tokens": IDLE_TOKENS };
  }
  const numQueries = Math.max(1, ...sequences.map(({ tokenIds }) => tokenIds.length));
  const tokens = new BigInt64Array(sequences.length * numQueries);
  let token = firstToken;
  for (const [row, { tokenIds }] of sequences.entries()) {
    for (let query = 0; query < numQueries; query++) {
      const place = row * numQueries + query;
      tokens[place] = BigInt(token + Math.min(query, tokenIds.length - 1));
      if (query < tokenIds.length) groups.rowOfToken[token + query] = BigInt(groups.numRows + place);
    }
    token += tokenIds.length;
  }
  groups.numRows += tokens.length;
  return { "fresh.tokens": { data: tokens, dims: [sequences.length, numQueries] } };
}

/** Whole numbers as a tensor of int64, `[values.length]`. */
export function int64(values: readonly number[]): GraphTensor {
  return { data: BigInt64Array.from(values, BigInt), dims: [values.length] };
}

/** `[start, start + 1, …]` */
export function upFrom(start: number, length: number): number[] {
  return Array.from({ length }, (_, index) => start + index);
}

/** `[0, a, a + b, …]`: where each part starts, and at the end how much there is. */
export function runningSums(sizes: readonly number[]): number[] {
  const sums = [0];
  for (const size of sizes) sums.push((sums.at(-1) as number) + size);
  return sums;
}
