// A text that the caller expects as the answer, as drafts.

import type { Draft } from "@readme-moe/core";

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
