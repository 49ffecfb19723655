// The tokens that a draft head can draft.

import type { TextSequence } from "../tuning/tuning-data.ts";

/** Tokens of a head, and the places of all tokens in it. */
export interface DraftVocabulary {
  /** Token of each place, rising. */
  readonly tokenIds: Int32Array;
  /** Place of each token of the model, -1 for others. */
  readonly places: Int32Array;
}

/** Chooses the most frequent tokens of texts, and of equally frequent ones those with lower ids. */
export function chooseVocabulary(
  sequences: readonly Pick<TextSequence, "tokenIds">[],
  size: number,
  vocabSize: number,
): DraftVocabulary {
  const counts = new Uint32Array(vocabSize);
  for (const { tokenIds } of sequences) for (const id of tokenIds) counts[id]!++;
  const byCount = Array.from(counts.keys()).sort((a, b) => counts[b]! - counts[a]! || a - b);
  const tokenIds = Int32Array.from(byCount.slice(0, size)).sort();
  const places = new Int32Array(vocabSize).fill(-1);
  tokenIds.forEach((id, place) => (places[id] = place));
  return { tokenIds, places };
}

/** Returns the share of a kind's tokens that the head can draft. */
export function vocabularyShare({ places }: DraftVocabulary, sequences: readonly TextSequence[], kind: number): number {
  const tokens = sequences.filter(({ domain }) => domain === kind).flatMap(({ tokenIds }) => Array.from(tokenIds));
  return tokens.filter((id) => places[id] !== -1).length / tokens.length;
}
