// Drafts without a model: what a grammar allows, what the caller expects, what the texts of the request had before, and
// what earlier steps computed.

import { chooseDraft, type Draft } from "@readme-moe/core";
import type { Sequence } from "../sequence.ts";
import type { ChancesOf, StepRows } from "./drafter.ts";
import { PredictedText } from "./predicted-text.ts";
import { RecycledTables, RecycledTokens } from "./recycled-tokens.ts";
import { proposeTextDrafts, type LastTokens } from "./text-drafts.ts";
import { TokenIndex } from "./token-index.ts";

/** Texts of a sequence. */
interface SequenceTexts {
  readonly index: TokenIndex;
  readonly prediction: PredictedText | undefined;
  /** Number of the sequence's tokens that the texts have. */
  numKnown: number;
  /** Tokens that were suggested last, for `position` and after it. */
  suggestion: { readonly position: number; readonly draft: Draft } | undefined;
  /** Answers of the request's other choices in the index. */
  readonly others: Map<Sequence, KnownAnswer>;
}

interface KnownAnswer {
  /** Number of the text in the index. */
  readonly text: number;
  /** Number of the answer's tokens that the index has. */
  numKnown: number;
}

/** Largest number of other choices whose answers are indexed. */
const MOST_OTHERS = 7;

/** Classes of evidence of tokens that a grammar allows. */
const FORCED = 0;
const ALLOWED = 1;

/** Drafts the most promising of several proposals. */
export class TextDrafter {
  readonly #tables = new RecycledTables();
  /** Results of earlier steps for requests of a sequence's salt. */
  readonly #recycled = new Map<Sequence, RecycledTokens>();
  readonly #texts = new Map<Sequence, SequenceTexts>();
  readonly #choices = new Map<string, Set<Sequence>>();

  /** Proposes tokens that may follow, of a bound sequence those that its caller allows. */
  propose(sequence: Sequence, mostTokens: number, chancesOf: ChancesOf): Draft | undefined {
    if (!sequence.isBound) return this.#likeliest(sequence, mostTokens, chancesOf);
    const { allowed } = sequence;
    if (!allowed || allowed.draft.length === 0) return undefined;
    const tokenIds = Array.from(allowed.draft.subarray(0, mostTokens));
    // What the caller has only let through is as likely as it was when it was suggested.
    const suggested = partOfSuggestion(this.#texts.get(sequence), sequence.numTokens, tokenIds);
    if (suggested) return suggested;
    const evidence = tokenIds.map((_, place) => (place < allowed.numForced ? FORCED : ALLOWED));
    return { source: "grammar", tokenIds, classes: evidence };
  }

  /** Proposes tokens whether they are allowed or not, to the caller who is asked which of them are. */
  suggest(sequence: Sequence, mostTokens: number, chancesOf: ChancesOf): Draft | undefined {
    const draft = this.#likeliest(sequence, mostTokens, chancesOf);
    this.#textsOf(sequence).suggestion = draft && { position: sequence.numTokens, draft };
    return draft;
  }

  #likeliest(sequence: Sequence, mostTokens: number, chancesOf: ChancesOf): Draft | undefined {
    const { index, prediction } = this.#textsOf(sequence);
    const texts = { index, recycled: this.#recycledOf(sequence), lastTokens: lastTokensOf(sequence), mostTokens };
    const proposals = [prediction?.propose(mostTokens) ?? [], proposeTextDrafts(texts)].flat();
    return proposals[chooseDraft(proposals.map(chancesOf))];
  }

  /** Learns from the rows of a step. */
  observe({ sequence, numKnown, draftIds, rows }: StepRows): void {
    const tokenIds = [...sequence.tokenIds.slice(Math.max(0, numKnown - 2), numKnown), ...draftIds];
    const first = tokenIds.length - draftIds.length - 1;
    const recycled = this.#recycledOf(sequence);
    for (const [place, row] of rows.entries()) {
      if (!Number.isFinite(row.logSumExp)) return;
      recycled.learn(tokenIds[first + place - 1] ?? -1, tokenIds[first + place] ?? -1, row);
    }
  }

  /** Drops what is kept of a sequence that has ended. */
  forget(sequence: Sequence): void {
    this.#texts.delete(sequence);
    this.#recycled.delete(sequence);
    const choices = this.#choices.get(sequence.requestId);
    choices?.delete(sequence);
    if (choices?.size === 0) this.#choices.delete(sequence.requestId);
  }

  #recycledOf(sequence: Sequence): RecycledTokens {
    const recycled = this.#recycled.get(sequence) ?? new RecycledTokens(this.#tables, sequence.cacheSalt);
    this.#recycled.set(sequence, recycled);
    return recycled;
  }

  /** Finds a sequence's texts, with all of their tokens. */
  #textsOf(sequence: Sequence): SequenceTexts {
    const { requestId, tokenIds, promptTokens, prediction } = sequence;
    const choices = this.#choices.get(requestId) ?? new Set();
    this.#choices.set(requestId, choices.add(sequence));
    const texts = this.#texts.get(sequence) ?? newTexts(prediction);
    this.#texts.set(sequence, texts);
    // The own text comes last, so that of equal matches it is the most recent.
    for (const other of choices) if (other !== sequence) addAnswer(texts, other);
    for (; texts.numKnown < tokenIds.length; texts.numKnown++) {
      const tokenId = tokenIds[texts.numKnown] ?? 0;
      texts.index.push(tokenId);
      if (texts.numKnown >= promptTokens) texts.prediction?.push(tokenId);
    }
    return texts;
  }
}

function newTexts(prediction: ArrayLike<number> | undefined): SequenceTexts {
  const index = new TokenIndex();
  if (prediction) index.addText(prediction);
  return {
    index,
    prediction: prediction && new PredictedText(prediction),
    numKnown: 0,
    suggestion: undefined,
    others: new Map(),
  };
}

/** Adds the tokens that another choice has got. */
function addAnswer({ index, others }: SequenceTexts, other: Sequence): void {
  if (!others.has(other) && others.size >= MOST_OTHERS) return;
  const answer = others.get(other) ?? { text: index.addText(), numKnown: 0 };
  others.set(other, answer);
  for (; answer.numKnown < other.completionTokens; answer.numKnown++) {
    index.push(other.tokenIds[other.promptTokens + answer.numKnown] ?? 0, answer.text);
  }
}

/** Finds the part of the last suggestion that has these tokens at `position`; `undefined` if it has others. */
function partOfSuggestion(
  texts: SequenceTexts | undefined,
  position: number,
  tokenIds: readonly number[],
): Draft | undefined {
  if (!texts?.suggestion) return undefined;
  const { draft } = texts.suggestion;
  const first = position - texts.suggestion.position;
  const isEqual = tokenIds.every((tokenId, place) => tokenId === draft.tokenIds[first + place]);
  return isEqual ? { ...draft, tokenIds, classes: draft.classes.slice(first, first + tokenIds.length) } : undefined;
}

function lastTokensOf({ tokenIds }: Sequence): LastTokens {
  return [tokenIds[tokenIds.length - 2] ?? -1, tokenIds[tokenIds.length - 1] ?? -1];
}
