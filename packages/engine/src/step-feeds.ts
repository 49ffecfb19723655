// A step's sequences as the decoder graph takes them, and where each one's results are.

import {
  dealFeeds,
  int64,
  planAttention,
  runningSums,
  upFrom,
  type ArenaSlot,
  type AttentionPlan,
  type AttentionRun,
  type Feeds,
  type KvPool,
  type KvSlot,
} from "@readme-moe/model";

/** One sequence's part in a step, which appends `tokenIds` to its slot. */
export interface StepSequence {
  /** Where its past is, in the KV memory that the step runs on. */
  readonly slot: KvSlot;
  /** Next tokens, at least one. */
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

/** A sequence's part in a step on arenas. */
export interface ArenaSequence extends StepSequence {
  readonly slot: ArenaSlot;
}

export interface RunPlan extends AttentionPlan {
  /** By place in `order`: the first row of logits, and of full logits. */
  readonly firstRows: readonly number[];
  readonly firstFullRows: readonly number[];
}

export function planRun(
  run: AttentionRun,
  all: readonly ArenaSequence[],
  pool: KvPool,
  numExperts: number,
  numCandidates: number,
): RunPlan {
  const attention = planAttention(run, all, pool);
  const { order, firstTokens } = attention;
  const sequences = order.map((index) => all[index] as StepSequence);
  const firstRows = runningSums(sequences.map(({ logitsOf }) => logitsOf.length));
  const firstFullRows = runningSums(sequences.map((s) => (s.wantsFullLogits ? s.logitsOf.length : 0)));
  const feeds = {
    ...attention.feeds,
    ...(numExperts > 1 ? dealFeeds(sequences, numExperts) : {}),
    ...logitFeeds(sequences, firstTokens, firstRows, numCandidates),
  };
  return { feeds, order, firstTokens, firstRows, firstFullRows };
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
