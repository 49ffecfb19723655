// A step's sequences as the decoder graph takes them, and where each one's results are.

import { attentionFeeds, int64, runningSums, upFrom, type Feeds, type KvCache, type KvShape } from "@readme-moe/model";

/** One sequence's part in a step. */
export interface StepSequence {
  /** Its past. The step appends `tokenIds` to it. */
  readonly cache: KvCache;
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

export interface StepPlan {
  readonly feeds: Feeds;
  /** Per sequence: its first token in the step's flat list; the last entry is their number. */
  readonly firstTokens: readonly number[];
  /** Per sequence: its first row of logits, and its first row of full logits. */
  readonly firstRows: readonly number[];
  readonly firstFullRows: readonly number[];
}

export function planStep(
  sequences: readonly StepSequence[],
  kvShape: KvShape,
  numExperts: number,
  numCandidates: number,
): StepPlan {
  const firstTokens = runningSums(sequences.map((sequence) => sequence.tokenIds.length));
  const firstRows = runningSums(sequences.map((sequence) => sequence.logitsOf.length));
  const firstFullRows = runningSums(sequences.map((s) => (s.wantsFullLogits ? s.logitsOf.length : 0)));
  const feeds = {
    ...attentionFeeds(sequences, kvShape),
    ...(numExperts > 1 ? dealFeeds(sequences, numExperts) : {}),
    ...logitFeeds(sequences, firstTokens, firstRows, numCandidates),
  };
  return { feeds, firstTokens, firstRows, firstFullRows };
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
