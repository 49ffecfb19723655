// A step's sequences as the decoder graph takes them, and where each one's results are.

import { int64, runningSums, upFrom, type Feeds, type GraphTensor } from "@readme-moe/model";
import type { KvPool } from "./kv/kv-pool.ts";
import type { KvSlot } from "./kv/kv-slot.ts";
import type { StepRun } from "./step-groups.ts";

/** One sequence's part in a step. */
export interface StepSequence {
  /** Its past. The step appends `tokenIds` to it. */
  readonly slot: KvSlot;
  /** The tokens to run now, at least one. */
  readonly tokenIds: ArrayLike<number>;
  /** Expert of each of `tokenIds`, in `[0, numExperts)`. */
  readonly experts: ArrayLike<number>;
  /** Which of `tokenIds` logits are wanted of, as indices. */
  readonly logitsOf: readonly number[];
  /** Token ids whose log-probabilities are wanted, one for each of `logitsOf`. @default id 0 */
  readonly targets?: ArrayLike<number> | undefined;
  /** Whether whole rows of logits are wanted. @default false */
  readonly wantsFullLogits?: boolean | undefined;
}

export interface RunPlan {
  readonly feeds: Feeds;
  /** The run's sequences, in the order of their tokens: places in the step's list. */
  readonly order: readonly number[];
  /** By place in `order`: the first token in the flat list, the first row of logits and of full logits. */
  readonly firstTokens: readonly number[];
  readonly firstRows: readonly number[];
  readonly firstFullRows: readonly number[];
}

export function planRun(
  run: StepRun,
  all: readonly StepSequence[],
  pool: KvPool,
  numExperts: number,
  numCandidates: number,
): RunPlan {
  const at = (index: number): StepSequence => all[index] as StepSequence;
  // A decoding sequence's token stands where its slot does, so that a step which only decodes needs no rows.
  const bySlot = (indices: readonly number[]): readonly number[] =>
    pool.inMemoryOrder(indices, (index) => at(index).slot);
  const order = [...bySlot(run.decode), ...bySlot(run.continued), ...run.fresh];
  const sequences = order.map(at);
  const firstTokens = runningSums(sequences.map(({ tokenIds }) => tokenIds.length));
  const firstRows = runningSums(sequences.map(({ logitsOf }) => logitsOf.length));
  const firstFullRows = runningSums(sequences.map((s) => (s.wantsFullLogits ? s.logitsOf.length : 0)));

  const groups = new GroupRows(firstTokens.at(-1) as number);
  const decodeEnd = run.decode.length;
  const continuedEnd = decodeEnd + run.continued.length;
  const decode = slotGroup("decode", sequences.slice(0, decodeEnd), 0, pool, groups);
  const decodeRows = groups.numRows;
  const firstContinued = firstTokens[decodeEnd] as number;
  const continued = slotGroup("continued", sequences.slice(decodeEnd, continuedEnd), firstContinued, pool, groups);
  const fresh = freshGroup(sequences.slice(continuedEnd), firstTokens[continuedEnd] as number, groups);
  const isPlain = decodeRows === decodeEnd && order.length === decodeEnd;

  const feeds = {
    token_ids: int64(sequences.flatMap(({ tokenIds }) => Array.from(tokenIds))),
    positions: int64(sequences.flatMap(({ slot, tokenIds }) => upFrom(slot.numTokens, tokenIds.length))),
    ...decode,
    ...continued,
    ...fresh,
    group_rows: { data: groups.rowOfToken, dims: [groups.rowOfToken.length] },
    is_plain_decode: { data: Uint8Array.of(isPlain ? 1 : 0), dims: [1] },
    ...(numExperts > 1 ? dealFeeds(sequences, numExperts) : {}),
    ...logitFeeds(sequences, firstTokens, firstRows, numCandidates),
  };
  return { feeds, order, firstTokens, firstRows, firstFullRows };
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
  name: "decode" | "continued",
  sequences: readonly StepSequence[],
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
  const feeds: Record<string, GraphTensor> = {
    [`${name}.tokens`]: { data: tokens, dims: name === "decode" ? [range.numRows] : [range.numRows, numQueries] },
    [`${name}.past_lengths`]: { data: pastLengths, dims: [range.numRows] },
  };
  for (let layer = 0; layer < pool.shape.numLayers; layer++) {
    const { keys, values } = pool.view(range, layer);
    feeds[`${name}.past_keys.${layer}`] = { data: keys, dims: range.dims };
    feeds[`${name}.past_values.${layer}`] = { data: values, dims: range.dims };
  }
  return feeds;
}

// A group has to have a row, see `attention`: one that nobody needs repeats the step's first token.
const IDLE_TOKENS: GraphTensor = { data: BigInt64Array.of(0n), dims: [1, 1] };

function idleGroup(pool: KvPool, groups: GroupRows): Feeds {
  groups.numRows += 1;
  const { numLayers, numKvHeads, headSize } = pool.shape;
  const nothing = { data: new Float32Array(0), dims: [1, numKvHeads, 1, 0, headSize] };
  const feeds: Record<string, GraphTensor> = {
    "continued.tokens": IDLE_TOKENS,
    "continued.past_lengths": int64([0]),
  };
  for (let layer = 0; layer < numLayers; layer++) {
    feeds[`continued.past_keys.${layer}`] = nothing;
    feeds[`continued.past_values.${layer}`] = nothing;
  }
  return feeds;
}

/** Prompts from their first token on; shorter ones repeat their last token, for nothing. */
function freshGroup(sequences: readonly StepSequence[], firstToken: number, groups: GroupRows): Feeds {
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

/** Sorts the step's tokens by expert (stable), and how to undo it. */
function dealFeeds(sequences: readonly StepSequence[], numExperts: number): Feeds {
  const experts = sequences.flatMap((sequence) => Array.from(sequence.experts));
  const counts = Array.from({ length: numExperts }, () => 0);
  for (const expert of experts) counts[expert] = (counts[expert] as number) + 1;
  const next = runningSums(counts);
  const permutation = new BigInt64Array(experts.length);
  const inverse = new BigInt64Array(experts.length);
  experts.forEach((expert, token) => {
    const place = next[expert] as number;
    next[expert] = place + 1;
    permutation[place] = BigInt(token);
    inverse[token] = BigInt(place);
  });
  return {
    permutation: { data: permutation, dims: [experts.length] },
    inverse: { data: inverse, dims: [experts.length] },
    expert_counts: int64(counts),
  };
}

function logitFeeds(
  sequences: readonly StepSequence[],
  firstTokens: readonly number[],
  firstRows: readonly number[],
  numCandidates: number,
): Feeds {
  const rows = sequences.flatMap(({ logitsOf }, index) =>
    logitsOf.map((token) => (firstTokens[index] as number) + token),
  );
  const targets = sequences.flatMap((s) => (s.targets ? Array.from(s.targets) : s.logitsOf.map(() => 0)));
  const fullRows = sequences.flatMap(({ logitsOf, wantsFullLogits }, index) =>
    wantsFullLogits ? upFrom(firstRows[index] as number, logitsOf.length) : [],
  );
  // A step that nobody wants logits of still computes one row: TopK on none would kill the process.
  return {
    logit_rows: int64(rows.length > 0 ? rows : [0]),
    targets: int64(targets.length > 0 ? targets : [0]),
    full_rows: int64(fullRows),
    num_candidates: int64([numCandidates]),
  };
}
