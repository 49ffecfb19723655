// What a step's sequences look like to `attentionGroup`: one flat list of tokens, and two groups of sequences that
// attend together.

import type { GraphTensor } from "./session.ts";
import type { KvCache, KvShape } from "./kv-cache.ts";

export type Feeds = Readonly<Record<string, GraphTensor>>;

/** A sequence's next tokens, at least one, after the past in its cache. */
export interface StepTokens {
  readonly cache: KvCache;
  readonly tokenIds: ArrayLike<number>;
}

/**
 * Feeds `token_ids`, `positions`, `group_rows` and the groups `decode` (sequences with one token) and `prefill`
 * (all others). Tokens are in the order of `sequences`.
 */
export function attentionFeeds(sequences: readonly StepTokens[], kvShape: KvShape): Feeds {
  const firstTokens = runningSums(sequences.map((sequence) => sequence.tokenIds.length));
  const numTokens = firstTokens.at(-1) as number;
  const groups = { decode: [] as number[], prefill: [] as number[] };
  sequences.forEach((sequence, index) => groups[sequence.tokenIds.length === 1 ? "decode" : "prefill"].push(index));
  const groupRows = new BigInt64Array(numTokens);
  const place = { sequences, firstTokens, groupRows };
  return {
    token_ids: int64(sequences.flatMap(({ tokenIds }) => Array.from(tokenIds))),
    positions: int64(sequences.flatMap(({ cache, tokenIds }) => upFrom(cache.numTokens, tokenIds.length))),
    ...groupFeeds("decode", groups.decode, 0, place, kvShape),
    ...groupFeeds("prefill", groups.prefill, groups.decode.length, place, kvShape),
    group_rows: { data: groupRows, dims: [numTokens] },
    is_plain_decode: { data: Uint8Array.of(groups.decode.length === numTokens ? 1 : 0), dims: [1] },
  };
}

interface Place {
  readonly sequences: readonly StepTokens[];
  readonly firstTokens: readonly number[];
  /** Filled in by each group: its row of each token. */
  readonly groupRows: BigInt64Array;
}

function groupFeeds(
  name: string,
  members: readonly number[],
  firstGroupRow: number,
  { sequences, firstTokens, groupRows }: Place,
  kvShape: KvShape,
): Feeds {
  const group = members.map((index) => sequences[index] as StepTokens);
  const numQueries = Math.max(1, ...group.map((sequence) => sequence.tokenIds.length));
  const tokens = new BigInt64Array(members.length * numQueries);
  group.forEach(({ tokenIds }, member) => {
    const first = firstTokens[members[member] as number] as number;
    for (let query = 0; query < numQueries; query++) {
      const row = member * numQueries + query;
      // A padded query repeats the sequence's last token; its result is never read.
      const token = first + Math.min(query, tokenIds.length - 1);
      tokens[row] = BigInt(token);
      if (query < tokenIds.length) groupRows[token] = BigInt(firstGroupRow + row);
    }
  });
  const caches = group.map((sequence) => sequence.cache);
  return {
    [`${name}.tokens`]: { data: tokens, dims: name === "decode" ? [members.length] : [members.length, numQueries] },
    [`${name}.past_lengths`]: int64(caches.map((cache) => cache.numTokens)),
    ...pastFeeds(name, caches, kvShape),
  };
}

function pastFeeds(name: string, caches: readonly KvCache[], { numLayers, numKvHeads, headSize }: KvShape): Feeds {
  const past = Math.max(0, ...caches.map((cache) => cache.capacityTokens));
  const dims = [caches.length, numKvHeads, 1, past, headSize];
  const feeds: Record<string, GraphTensor> = {};
  for (let layer = 0; layer < numLayers; layer++) {
    const keys = caches.map((cache) => cache.keys(layer));
    const values = caches.map((cache) => cache.values(layer));
    feeds[`${name}.past_keys.${layer}`] = { data: sideBySide(keys, past, numKvHeads, headSize), dims };
    feeds[`${name}.past_values.${layer}`] = { data: sideBySide(values, past, numKvHeads, headSize), dims };
  }
  return feeds;
}

/** Several sequences' `[numKvHeads, capacity, headSize]` in one array; a lone one is passed on as it is. */
function sideBySide(parts: readonly Float32Array[], past: number, numKvHeads: number, headSize: number): Float32Array {
  const [first] = parts;
  if (parts.length === 1 && first) return first;
  const together = new Float32Array(parts.length * numKvHeads * past * headSize);
  parts.forEach((part, member) => {
    const stride = part.length / numKvHeads;
    for (let head = 0; head < numKvHeads; head++) {
      const target = (member * numKvHeads + head) * past * headSize;
      together.set(part.subarray(head * stride, (head + 1) * stride), target);
    }
  });
  return together;
}

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
