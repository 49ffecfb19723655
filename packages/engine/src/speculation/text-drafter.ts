// Drafts without a model: what the caller expects, what the text had before, and what earlier steps computed.

import type { Draft, LogitsRow } from "@readme-moe/core";
import type { Sequence } from "../sequence.ts";
import type { ChancesOf, Drafter, StepRows } from "./drafter.ts";
import { RecycledTokens } from "./recycled-tokens.ts";
import { TokenIndex } from "./token-index.ts";

/** A sequence's texts. */
interface SequenceTexts {
  readonly index: TokenIndex;
  /** Number of the sequence's tokens that the index has. */
  numIndexed: number;
  /** Position in the prediction that the completion has reached; `undefined` once it differs. */
  place: number | undefined;
}

/** Class of evidence of tokens of a prediction that the completion has followed so far. */
const FOLLOWED = 0;

/** Drafts the most promising of several proposals. */
export class TextDrafter implements Drafter {
  readonly #recycled = new RecycledTokens();
  readonly #texts = new Map<Sequence, SequenceTexts>();

  propose(sequence: Sequence, mostTokens: number, chancesOf: ChancesOf): Draft | undefined {
    const texts = this.#textsOf(sequence);
    const [before = -1, last = -1] = sequence.tokenIds.slice(-2);
    const proposals = [
      predicted(sequence, texts, mostTokens),
      texts.index.propose(mostTokens),
      this.#recycled.propose(before, last, mostTokens),
    ];
    let best: Draft | undefined;
    let bestTokens = 0;
    for (const draft of proposals) {
      const tokens = draft ? expectedTokens(chancesOf(draft)) : 0;
      if (tokens > bestTokens) [best, bestTokens] = [draft, tokens];
    }
    return best;
  }

  observe({ sequence, numKnown, draftIds, rows }: StepRows): void {
    const known = sequence.tokenIds.slice(Math.max(0, numKnown - 2), numKnown);
    const all = [-1, ...known, ...draftIds];
    const first = known.length;
    for (const [place, row] of rows.entries()) this.#learn(all[first + place - 1] ?? -1, all[first + place] ?? -1, row);
  }

  forget(sequence: Sequence): void {
    this.#texts.delete(sequence);
  }

  #learn(before: number, last: number, row: LogitsRow): void {
    if (Number.isFinite(row.logSumExp)) this.#recycled.learn(before, last, row);
  }

  /** Finds a sequence's texts, with all of its tokens. */
  #textsOf(sequence: Sequence): SequenceTexts {
    const { tokenIds, promptTokens, prediction } = sequence;
    let texts = this.#texts.get(sequence);
    if (!texts) {
      texts = { index: new TokenIndex(), numIndexed: 0, place: prediction ? 0 : undefined };
      if (prediction) texts.index.addText(prediction);
      this.#texts.set(sequence, texts);
    }
    for (; texts.numIndexed < tokenIds.length; texts.numIndexed++) {
      const tokenId = tokenIds[texts.numIndexed] ?? 0;
      texts.index.push(tokenId);
      if (texts.numIndexed < promptTokens || texts.place === undefined) continue;
      texts.place = prediction?.[texts.place] === tokenId ? texts.place + 1 : undefined;
    }
    return texts;
  }
}

/** Continues a prediction that the completion has followed so far. */
function predicted({ prediction }: Sequence, { place }: SequenceTexts, mostTokens: number): Draft | undefined {
  if (!prediction || place === undefined || place >= prediction.length) return undefined;
  const tokenIds = Array.from({ length: Math.min(mostTokens, prediction.length - place) }, (_, at) => {
    return prediction[place + at] ?? 0;
  });
  return { source: "prediction", tokenIds, classes: tokenIds.map(() => FOLLOWED) };
}

/** Computes how many tokens of a draft are accepted on average. */
function expectedTokens(chances: readonly number[]): number {
  let [chance, sum] = [1, 0];
  for (const one of chances) sum += chance *= one;
  return sum;
}
