// Added tokens: which they are, and how they are found in a text.

import { CHUNK_LENGTH } from "./pausing.ts";

/** A token that is cut out of a text before BPE sees the rest. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** Whether the token steers the model and is no part of the text; `skipSpecialTokens` leaves such tokens out. */
  readonly special: boolean;
  /** Whether the token is searched for in the normalized text. */
  readonly normalized: boolean;
  /** Whether the token takes the spaces before it. */
  readonly lstrip: boolean;
  /** Whether the token takes the spaces after it. */
  readonly rstrip: boolean;
}

/** A stretch of text, or the spelling of an added token. */
export interface Section {
  readonly text: string;
  /** Place among the sections of the text; empty ones count. */
  readonly index: number;
  readonly token: AddedToken | undefined;
}

interface TrieNode {
  readonly next: Map<number, TrieNode>;
  /** Whether a spelling ends here. */
  isEnd: boolean;
}

// A search takes as many steps for a character as the longest spelling is long. Real spellings have tens of characters;
// vocabularies for speech have 2 ** 16 added tokens, whose tries have some 200,000 nodes.
const MAX_SPELLING_LENGTH = 1024;
const MAX_NODES = 2 ** 19;

/** Finds spellings of tokens in texts. */
export class SpellingTrie {
  readonly #root: TrieNode = { next: new Map(), isEnd: false };
  #numNodes = 0;

  /** @throws {Error} when a spelling is too long, or when there are too many */
  constructor(spellings: Iterable<string>) {
    for (const spelling of spellings) this.#insert(spelling);
  }

  /** Returns the length of the longest spelling that begins at `at`, 0 for none. */
  matchAt(text: string, at: number): number {
    let node = this.#root.next.get(text.charCodeAt(at));
    let length = 0;
    for (let end = at + 1; node !== undefined; end++) {
      if (node.isEnd) length = end - at;
      node = end < text.length ? node.next.get(text.charCodeAt(end)) : undefined;
    }
    return length;
  }

  /** Checks that a spelling begins with the rest of `text`, from `at` on. */
  beginsAt(text: string, at: number): boolean {
    let node: TrieNode | undefined = this.#root;
    for (let end = at; end < text.length && node !== undefined; end++) node = node.next.get(text.charCodeAt(end));
    return node !== undefined;
  }

  #insert(spelling: string): void {
    if (spelling.length > MAX_SPELLING_LENGTH) {
      throw new Error(`an added token has more than ${MAX_SPELLING_LENGTH} characters`);
    }
    let node = this.#root;
    for (let at = 0; at < spelling.length; at++) {
      const unit = spelling.charCodeAt(at);
      let next = node.next.get(unit);
      if (next === undefined) {
        if (++this.#numNodes > MAX_NODES) throw new Error("the added tokens have too many characters");
        next = { next: new Map(), isEnd: false };
        node.next.set(unit, next);
      }
      node = next;
    }
    if (spelling !== "") node.isEnd = true;
  }
}

/** Cuts texts at the spellings of added tokens: at the leftmost, and there at the longest. */
export class AddedTokenSplitter {
  readonly #tokens: ReadonlyMap<string, AddedToken>;
  readonly #spellings: SpellingTrie;

  /**
   * @param spellings - spellings at which texts are cut
   * @param tokens - tokens by spelling; further spellings count when a whole section has them
   */
  constructor(spellings: Iterable<string>, tokens: ReadonlyMap<string, AddedToken>) {
    this.#tokens = tokens;
    this.#spellings = new SpellingTrie(spellings);
  }

  /** Yields the sections that are not empty, and `undefined` where the caller may pause. */
  *split(text: string): Generator<Section | undefined, void> {
    let index = 0;
    let held: string | undefined;
    let isTrimmed = false; // whether the token before `held` takes its leading spaces
    for (const part of this.#parts(text)) {
      if (part === undefined) {
        yield undefined;
        continue;
      }
      const next: string = isTrimmed ? part.trimStart() : part;
      const token = this.#tokens.get(next);
      if (held !== undefined) yield* this.#section(token?.lstrip ? held.trimEnd() : held, index++);
      held = next;
      isTrimmed = token?.rstrip === true;
    }
    if (held !== undefined) yield* this.#section(held, index);
  }

  *#section(text: string, index: number): Generator<Section, void> {
    if (text !== "") yield { text, index, token: this.#tokens.get(text) };
  }

  *#parts(text: string): Generator<string | undefined, void> {
    let start = 0;
    let pauseAt = CHUNK_LENGTH;
    for (let at = 0; at < text.length;) {
      const length = this.#spellings.matchAt(text, at);
      if (length > 0) {
        if (at > start) yield text.slice(start, at);
        yield text.slice(at, at + length);
        start = at + length;
      }
      at += Math.max(1, length);
      if (at >= pauseAt) {
        pauseAt = at + CHUNK_LENGTH;
        yield undefined;
      }
    }
    if (start < text.length) yield text.slice(start);
  }
}
