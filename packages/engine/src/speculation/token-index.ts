// Earlier occurrences of a sequence's last tokens, as drafts.

import type { Draft } from "@readme-moe/core";

/** Lengths of matches that are told apart, the shortest first. A match counts as the longest of these that it has. */
export const MATCH_LENGTHS: readonly number[] = [1, 2, 3, 4, 6, 9];
const LONGEST = MATCH_LENGTHS[MATCH_LENGTHS.length - 1] ?? 1;

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
    for (let length = 1; length <= LONGEST && at !== NONE; length++) {
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

/** Reads the index in `MATCH_LENGTHS` from a class of evidence. */
export function levelOf(evidence: number): number {
  return Math.floor(evidence / AGREEMENTS);
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
