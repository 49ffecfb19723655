// The tokens that a draft head can draft.

import { shuffled } from "../random.ts";
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

/** Outputs that a step computes. */
export interface ChosenOutputs {
  /** Their places in the draft vocabulary, rising. */
  readonly places: readonly number[];
  /** Summand of each logit. */
  readonly corrections: Float32Array;
}

/**
 * Chooses all outputs that are candidates and at least `numOthers` of the others at random, a multiple of `numOthers`
 * together, so that few sizes occur. The logits of the others count for those that were left out: the sum of
 * exponentials has the expectation of the whole vocabulary's (sampled softmax, Jean et al., ACL 2015).
 */
export function sampleOutputs(
  { tokenIds, places }: DraftVocabulary,
  candidates: Int32Array,
  { numOthers, seed }: { readonly numOthers: number; readonly seed: number },
): ChosenOutputs {
  const isOwn = new Uint8Array(tokenIds.length);
  for (const id of candidates) if (places[id] !== -1) isOwn[places[id]!] = 1;
  const all = [...tokenIds.keys()];
  const [own, others] = [all.filter((place) => isOwn[place] === 1), all.filter((place) => isOwn[place] === 0)];
  const size = Math.min(all.length, numOthers * Math.ceil(own.length / numOthers + 1));
  const drawn = size === all.length ? others : shuffled(others, seed).slice(0, size - own.length);
  const chosen = [...own, ...drawn].sort((a, b) => a - b);
  const correction = Math.log(others.length / drawn.length);
  return { places: chosen, corrections: Float32Array.from(chosen, (place) => (isOwn[place] === 1 ? 0 : correction)) };
}
