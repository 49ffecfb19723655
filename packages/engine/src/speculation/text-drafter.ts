// Drafts without a model: what a grammar allows, what the caller expects, what the texts of the request had before, and
// what earlier steps computed.

import { chooseDraft, type Draft } from "@readme-moe/core";
import type { Sequence } from "../sequence.ts";
import type { ChancesOf, StepRows } from "./drafter.ts";
import { RECYCLED_CLASSES, RecycledTables, RecycledTokens } from "./recycled-tokens.ts";

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
    if (!sequence.isBound) return this.likeliest(sequence, mostTokens, chancesOf);
    const { allowed } = sequence;
    if (!allowed || allowed.draft.length === 0) return undefined;
    const tokenIds = Array.from(allowed.draft.subarray(0, mostTokens));
    // A suggestion that the caller has let through is as likely as it was before.
    const suggested = partOfSuggestion(this.#texts.get(sequence), sequence.numTokens, tokenIds);
    if (suggested) return suggested;
    const evidence = tokenIds.map((_, place) => (place < allowed.numForced ? FORCED : ALLOWED));
    return { source: "grammar", tokenIds, classes: evidence };
  }

  /** Keeps what the caller of a bound sequence is asked about. */
  suggested(sequence: Sequence, draft: Draft | undefined): void {
    this.#textsOf(sequence).suggestion = draft && { position: sequence.numTokens, draft };
  }

  /** Proposes tokens whether they are allowed or not. */
  likeliest(sequence: Sequence, mostTokens: number, chancesOf: ChancesOf): Draft | undefined {
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
  const opinion = isSame ? 1 : 2 + Math.floor((context.classes[0] ?? 0) / AGREEMENTS);
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

// Earlier occurrences of a sequence's last tokens, as drafts.

/** Lengths of matches that are told apart, the shortest first. A match counts as the longest of these that it has. */
export const MATCH_LENGTHS: readonly number[] = [1, 2, 3, 4, 6, 9];
const LONGEST_MATCH = MATCH_LENGTHS[MATCH_LENGTHS.length - 1] ?? 1;

/** Opinions of the occurrences before the latest one about its next token. */
const SINGLE = 0;
const AGREED = 1;
const DISPUTED = 2;
const AGREEMENTS = 3;
/** Number of classes of evidence: lengths of matches, by agreement. */
export const CONTEXT_CLASSES: number = AGREEMENTS * MATCH_LENGTHS.length;

const NONE = -1;
const FIRST_CAPACITY = 256;

/** An earlier occurrence of the last tokens. */
interface Match {
  /** Position of its last token. */
  readonly position: number;
  /** Index of its length in `MATCH_LENGTHS`. */
  readonly level: number;
  readonly agreement: number;
}

/**
 * Finds where a sequence's last tokens occurred before, in its own text and in other texts: the longest match in terms
 * of `MATCH_LENGTHS`, the most recent among equals. If the latest occurrence's next token differs from one that the
 * two occurrences before it agree on, the token of those is preferred.
 *
 * Adding a token takes constant time (amortized), and so does finding a match, whatever the texts are. A token takes
 * some 100 bytes.
 */
export class TokenIndex {
  #tokens = new Int32Array(FIRST_CAPACITY);
  /** Position of the token before and after each token in its text, or `NONE`. */
  #before = new Int32Array(FIRST_CAPACITY);
  #after = new Int32Array(FIRST_CAPACITY);
  #count = 0;
  /** Position of the last token of each text, or `NONE`. The first text is the sequence's own. */
  readonly #ends: number[] = [NONE];
  readonly #levels = MATCH_LENGTHS.map(() => ({
    /** Position of the latest occurrence, plus 1, in a hash table of runs of tokens; 0 is free. */
    slots: new Int32Array(2 * FIRST_CAPACITY),
    numUsed: 0,
    /** Position of the previous occurrence of the run that ends at each token, or `NONE`. */
    previous: new Int32Array(FIRST_CAPACITY),
  }));

  /** Adds a text that may grow. @returns its number, for `push` */
  addText(tokenIds: ArrayLike<number> = []): number {
    const text = this.#ends.push(NONE) - 1;
    for (let at = 0; at < tokenIds.length; at++) this.push(tokenIds[at] ?? 0, text);
    return text;
  }

  /** Adds a token to a text, by default to the sequence's own. */
  push(tokenId: number, text = 0): void {
    if (this.#count === this.#tokens.length) this.#grow();
    const position = this.#count++;
    const before = this.#ends[text] ?? NONE;
    this.#tokens[position] = tokenId;
    this.#before[position] = before;
    this.#after[position] = NONE;
    if (before !== NONE) this.#after[before] = position;
    this.#ends[text] = position;
    this.#walkRuns(position, (level, hash) => {
      const own = this.#levels[level];
      if (!own) return;
      const slot = this.#slotOf(level, hash, position);
      const latest = (own.slots[slot] ?? 0) - 1;
      own.previous[position] = latest;
      own.slots[slot] = position + 1;
      if (latest === NONE && 2 * ++own.numUsed > own.slots.length) this.#rehash(level);
    });
  }

  /**
   * Proposes the tokens that followed the longest match. Where the sequence repeats itself, the repetition goes on.
   *
   * @param mostTokens - largest number of tokens
   * @returns `undefined` if the last token did not occur before
   */
  propose(mostTokens: number): Draft | undefined {
    const end = this.#ends[0] ?? NONE;
    const match = end === NONE ? undefined : this.#longestMatch(end);
    if (!match) return undefined;
    const first = this.#after[match.position] ?? NONE;
    const tokenIds: number[] = [];
    const classes: number[] = [];
    const length = MATCH_LENGTHS[match.level] ?? 1;
    for (let at = first; at !== NONE && tokenIds.length < mostTokens;) {
      // A token that was accepted makes the match longer by one.
      classes.push(evidenceClass(length + tokenIds.length, match.agreement));
      tokenIds.push(this.#tokens[at] ?? 0);
      at = at === end ? first : (this.#after[at] ?? NONE);
    }
    return { source: "context", tokenIds, classes };
  }

  #longestMatch(end: number): Match | undefined {
    let best: Match | undefined;
    this.#walkRuns(end, (level, hash) => {
      const slot = this.#slotOf(level, hash, end);
      const latest = this.#followed(level, (this.#levels[level]?.slots[slot] ?? 0) - 1);
      if (latest !== NONE) best = this.#preferred(level, latest);
    });
    return best;
  }

  /** Chooses between the last three occurrences of a run. */
  #preferred(level: number, latest: number): Match {
    const [second, third] = this.#twoBefore(level, latest);
    if (second === NONE) return { level, position: latest, agreement: SINGLE };
    const next = this.#nextToken(latest);
    if (this.#nextToken(second) === next) return { level, position: latest, agreement: AGREED };
    const isOutvoted = third !== NONE && this.#nextToken(second) === this.#nextToken(third);
    return { level, position: isOutvoted ? second : latest, agreement: DISPUTED };
  }

  #twoBefore(level: number, latest: number): readonly [number, number] {
    const previous = this.#levels[level]?.previous;
    const second = this.#followed(level, previous?.[latest] ?? NONE);
    return [second, second === NONE ? NONE : this.#followed(level, previous?.[second] ?? NONE)];
  }

  /** Finds the latest occurrence from `position` back that a token follows; only ends of texts have none. */
  #followed(level: number, position: number): number {
    let at = position;
    while (at !== NONE && this.#after[at] === NONE) at = this.#levels[level]?.previous[at] ?? NONE;
    return at;
  }

  #nextToken(position: number): number {
    return this.#tokens[this.#after[position] ?? 0] ?? NONE;
  }

  /** Calls `visit` with the hash of each run of one of `MATCH_LENGTHS` that ends at `position`. */
  #walkRuns(position: number, visit: (level: number, hash: number) => void): void {
    let hash = 0;
    let level = 0;
    let at = position;
    for (let length = 1; length <= LONGEST_MATCH && at !== NONE; length++) {
      hash = mix(hash, this.#tokens[at] ?? 0);
      if (length === MATCH_LENGTHS[level]) visit(level++, hash);
      at = this.#before[at] ?? NONE;
    }
  }

  /** Finds the slot of the run that ends at `position`, or a free one. */
  #slotOf(level: number, hash: number, position: number): number {
    const slots = this.#levels[level]?.slots ?? new Int32Array(1);
    const mask = slots.length - 1;
    let slot = hash & mask;
    for (let found = slots[slot] ?? 0; found !== 0; found = slots[slot] ?? 0) {
      if (this.#isSameRun(found - 1, position, MATCH_LENGTHS[level] ?? 1)) break;
      slot = (slot + 1) & mask;
    }
    return slot;
  }

  #isSameRun(a: number, b: number, length: number): boolean {
    for (let left = length; left > 0; left--) {
      if (a === b) return true;
      if (a === NONE || b === NONE || this.#tokens[a] !== this.#tokens[b]) return false;
      a = this.#before[a] ?? NONE;
      b = this.#before[b] ?? NONE;
    }
    return true;
  }

  #grow(): void {
    const capacity = 2 * this.#tokens.length;
    this.#tokens = enlarged(this.#tokens, capacity);
    this.#before = enlarged(this.#before, capacity);
    this.#after = enlarged(this.#after, capacity);
    for (const level of this.#levels) level.previous = enlarged(level.previous, capacity);
  }

  #rehash(level: number): void {
    const own = this.#levels[level];
    if (!own) return;
    const old = own.slots;
    own.slots = new Int32Array(2 * old.length);
    for (const latest of old) {
      if (latest === 0) continue;
      this.#walkRuns(latest - 1, (other, hash) => {
        if (other === level) own.slots[this.#slotOf(level, hash, latest - 1)] = latest;
      });
    }
  }
}

/** Numbers the evidence of a match: its length, and what earlier occurrences say. */
function evidenceClass(length: number, agreement: number): number {
  let level = 0;
  while (level + 1 < MATCH_LENGTHS.length && length >= (MATCH_LENGTHS[level + 1] ?? Infinity)) level++;
  return level * AGREEMENTS + agreement;
}

function mix(hash: number, tokenId: number): number {
  const mixed = Math.imul(hash ^ tokenId, 0x9e3779b1) ^ (hash >>> 15);
  return Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b) >>> 0;
}

function enlarged(array: Int32Array, capacity: number): Int32Array<ArrayBuffer> {
  const larger = new Int32Array(capacity);
  larger.set(array);
  return larger;
}
