import { CHUNK_LENGTH } from "./in-chunks.ts";
import { SpellingTrie } from "./spelling-trie.ts";
import type { AddedToken } from "./vocabulary.ts";

/** A stretch of text, or the spelling of an added token. */
export interface Section {
  readonly text: string;
  /** Place among the sections of the text; those that came to nothing count. */
  readonly index: number;
  readonly token: AddedToken | undefined;
}

/** Cuts texts at the spellings of added tokens: the leftmost, and of those that begin alike the longest. */
export class AddedTokenSplitter {
  readonly #tokens: ReadonlyMap<string, AddedToken>;
  readonly #spellings: SpellingTrie;

  /**
   * @param spellings - at which texts are cut
   * @param tokens - by spelling; may hold more than `spellings`, which count where a section is one as a whole
   */
  constructor(spellings: Iterable<string>, tokens: ReadonlyMap<string, AddedToken>) {
    this.#tokens = tokens;
    this.#spellings = new SpellingTrie(spellings);
  }

  /** Yields sections that are not empty, and `undefined` where the caller may pause. */
  *split(text: string): Generator<Section | undefined, void> {
    let index = 0;
    let held: string | undefined;
    let isTrimmed = false; // of `held`: the token before takes its leading spaces
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
