// Drafts without a model: what a grammar allows, what the caller expects, what the texts of the request had before, and
// what earlier steps computed.

import { chooseDraft, type Draft } from "@readme-moe/core";
import type { Sequence } from "../sequence.ts";
import type { ChancesOf, Drafter, StepRows } from "./drafter.ts";
import { PredictedText } from "./predicted-text.ts";
import { RecycledTokens } from "./recycled-tokens.ts";
import { proposeTextDrafts, type LastTokens } from "./text-drafts.ts";
import { TokenIndex } from "./token-index.ts";

/** What is kept of a sequence. */
interface SequenceTexts {
  readonly index: TokenIndex;
  readonly prediction: PredictedText | undefined;
  /** Number of the sequence's tokens that the texts have. */
  numKnown: number;
}

/** Classes of evidence of tokens that a grammar allows. */
const FORCED = 0;
const ALLOWED = 1;

/** Drafts the most promising of several proposals. */
export class TextDrafter implements Drafter {
  readonly #recycled = new RecycledTokens();
  readonly #texts = new Map<Sequence, SequenceTexts>();

  propose(sequence: Sequence, mostTokens: number, chancesOf: ChancesOf): Draft | undefined {
    if (sequence.isBound) return allowedDraft(sequence, mostTokens);
    return this.suggest(sequence, mostTokens, chancesOf);
  }

  suggest(sequence: Sequence, mostTokens: number, chancesOf: ChancesOf): Draft | undefined {
    const { index, prediction } = this.#textsOf(sequence);
    const texts = { index, recycled: this.#recycled, lastTokens: lastTokensOf(sequence), mostTokens };
    const proposals = [prediction?.propose(mostTokens) ?? [], proposeTextDrafts(texts)].flat();
    return proposals[chooseDraft(proposals.map(chancesOf))];
  }

  observe({ sequence, numKnown, draftIds, rows }: StepRows): void {
    const tokenIds = [...sequence.tokenIds.slice(Math.max(0, numKnown - 2), numKnown), ...draftIds];
    const first = tokenIds.length - draftIds.length - 1;
    for (const [place, row] of rows.entries()) {
      if (!Number.isFinite(row.logSumExp)) return;
      this.#recycled.learn(tokenIds[first + place - 1] ?? -1, tokenIds[first + place] ?? -1, row);
    }
  }

  forget(sequence: Sequence): void {
    this.#texts.delete(sequence);
  }

  /** Finds a sequence's texts, with all of its tokens. */
  #textsOf(sequence: Sequence): SequenceTexts {
    const { tokenIds, promptTokens, prediction } = sequence;
    let texts = this.#texts.get(sequence);
    if (!texts) {
      texts = { index: new TokenIndex(), prediction: prediction && new PredictedText(prediction), numKnown: 0 };
      if (prediction) texts.index.addText(prediction);
      this.#texts.set(sequence, texts);
    }
    for (; texts.numKnown < tokenIds.length; texts.numKnown++) {
      const tokenId = tokenIds[texts.numKnown] ?? 0;
      texts.index.push(tokenId);
      if (texts.numKnown >= promptTokens) texts.prediction?.push(tokenId);
    }
    return texts;
  }
}

/** Drafts what the grammar of a sequence forces or allows. No other token has a mask after it. */
function allowedDraft({ allowed }: Sequence, mostTokens: number): Draft | undefined {
  if (!allowed || allowed.draft.length === 0) return undefined;
  const tokenIds = Array.from(allowed.draft.subarray(0, mostTokens));
  const classes = tokenIds.map((_, place) => (place < allowed.numForced ? FORCED : ALLOWED));
  return { source: "grammar", tokenIds, classes };
}

function lastTokensOf({ tokenIds }: Sequence): LastTokens {
  return [tokenIds[tokenIds.length - 2] ?? -1, tokenIds[tokenIds.length - 1] ?? -1];
}
