// Drafts without a model: what a grammar allows, what the caller expects, what the texts of the request had before, and
// what earlier steps computed.

import { chooseDraft, type Draft } from "@readme-moe/core";
import type { Sequence } from "../sequence.ts";
import type { ChancesOf, StepRows } from "./drafter.ts";
import { RECYCLED_CLASSES, RecycledTables, RecycledTokens } from "./recycled-tokens.ts";
import { CONTEXT_CLASSES, levelOf, TokenIndex } from "./token-index.ts";

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

/** The last two tokens of a sequence; the first is -1 if there is only one. */
type LastTokens = readonly [before: number, last: number];

export interface TextDraftsInput {
  /** Texts of the request. */
  readonly index: TokenIndex;
  readonly recycled: RecycledTokens;
  readonly lastTokens: LastTokens;
  /** Largest number of tokens of a draft. */
  readonly mostTokens: number;
}

// From here on a recycled probability makes other tokens unlikely.
const LIKELY = 0.5;

/** Proposes at most one draft of each of the two sources, "context" first. */
export function proposeTextDrafts({ index, recycled, lastTokens, mostTokens }: TextDraftsInput): readonly Draft[] {
  const context = index.propose(mostTokens);
  const chain = recycled.propose(...lastTokens, mostTokens);
  const drafts: Draft[] = [];
  if (context) drafts.push(besideRecycled(context, recycled, lastTokens));
  if (chain) drafts.push(besideContext(chain, context));
  return drafts;
}

/** Adds to each class what the recycled candidates say about the token. */
function besideRecycled(context: Draft, recycled: RecycledTokens, lastTokens: LastTokens): Draft {
  let [before, last] = lastTokens;
  const classes = context.classes.map((evidence, at) => {
    const tokenId = context.tokenIds[at] ?? 0;
    const opinion = opinionOf(recycled, [before, last], tokenId);
    [before, last] = [last, tokenId];
    return evidence + CONTEXT_CLASSES * opinion;
  });
  return { ...context, classes };
}

/** Numbers what recycled candidates say about a token: nothing, the same or another, from weak to strong evidence. */
function opinionOf(recycled: RecycledTokens, lastTokens: LastTokens, tokenId: number): number {
  const next = recycled.likelyAfter(...lastTokens);
  if (!next) return 0;
  const strength = next.visits === 0 ? 0 : next.probability < LIKELY ? 1 : 2;
  return (next.tokenId === tokenId ? 1 : 4) + strength;
}

/** Adds to the class of the first token what the request's texts say about it. The others follow other texts. */
function besideContext(chain: Draft, context: Draft | undefined): Draft {
  if (!context) return chain;
  const [first = 0, ...others] = chain.classes;
  const isSame = chain.tokenIds[0] === context.tokenIds[0];
  const opinion = isSame ? 1 : 2 + levelOf(context.classes[0] ?? 0);
  return { ...chain, classes: [first + RECYCLED_CLASSES * opinion, ...others] };
}

/** Number of equal tokens from which on it does not matter how many they are. */
const LONGEST = 9;
/** Classes of evidence besides the number of equal tokens, which is from 1 to `LONGEST`. */
const BEGINNING = 0;
const REPLACED = LONGEST + 1;

/**
 * Follows a predicted text while an answer is generated, from its beginning. Where the answer differs, the place is
 * found again by the longest run of the answer's last tokens, of equal ones by the next after the last place. If there
 * is none, the answer is taken to have replaced one token.
 *
 * A token takes constant time while the answer follows the text, and one pass over the text while it does not.
 */
export class PredictedText {
  readonly #text: Int32Array;
  /** The answer's last tokens, the newest last. */
  readonly #recent: number[] = [];
  /** Position in the text of the token that is expected next. */
  #next = 0;
  #evidence = BEGINNING;

  constructor(tokenIds: ArrayLike<number>) {
    this.#text = Int32Array.from(tokenIds);
  }

  /** Adds a token of the answer. */
  push(tokenId: number): void {
    this.#recent.push(tokenId);
    if (this.#recent.length > LONGEST) this.#recent.shift();
    if (this.#text[this.#next] === tokenId) {
      this.#next++;
      this.#evidence = this.#evidence === REPLACED ? 1 : Math.min(LONGEST, this.#evidence + 1);
      return;
    }
    this.#findAgain();
  }

  /** Proposes the rest of the text. @returns `undefined` at its end */
  propose(mostTokens: number): Draft | undefined {
    const tokenIds = Array.from(this.#text.subarray(this.#next, this.#next + mostTokens));
    if (tokenIds.length === 0) return undefined;
    const first = this.#evidence === REPLACED ? 0 : this.#evidence;
    const classes = tokenIds.map((_, at) => (at === 0 ? this.#evidence : Math.min(LONGEST, first + at)));
    return { source: "prediction", tokenIds, classes };
  }

  #findAgain(): void {
    const last = this.#recent[this.#recent.length - 1];
    const from = this.#next;
    let [best, bestLength, bestDistance] = [from, 0, Infinity];
    for (let at = 0; at < this.#text.length; at++) {
      if (this.#text[at] !== last) continue;
      const length = this.#lengthAt(at);
      // Places behind the last one are as good as places after the end.
      const distance = at >= from ? at - from : this.#text.length + from - at;
      if (length < bestLength || (length === bestLength && distance >= bestDistance)) continue;
      [best, bestLength, bestDistance] = [at, length, distance];
    }
    this.#next = best + 1;
    this.#evidence = bestLength === 0 ? REPLACED : bestLength;
  }

  /** Counts the answer's last tokens that equal those of the text up to `end`. */
  #lengthAt(end: number): number {
    let length = 0;
    while (length <= end && length < this.#recent.length) {
      if (this.#text[end - length] !== this.#recent[this.#recent.length - 1 - length]) break;
      length++;
    }
    return length;
  }
}
