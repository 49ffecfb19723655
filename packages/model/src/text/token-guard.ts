// Keeps spellings of control tokens in what callers write from becoming control tokens, through a template and the cut at
// added tokens: marks that no text has in earnest break them apart, and are taken away before the text is tokenized.

import { ReadMeError } from "@readme-moe/core";
import { CHUNK_LENGTH } from "./in-chunks.ts";
import { SpellingTrie } from "./spelling-trie.ts";

/** A value whose strings are marked, and whether any needed it. */
export interface Guarded<Value> {
  readonly value: Value;
  readonly isMarked: boolean;
}

interface Progress {
  isMarked: boolean;
  numValues: number;
}

// What templates compare, or write between two halves of a token's spelling: names of speakers, types and fields.
const PLAIN_NAME = /^[\w .-]{1,64}$/;

const VALUES_BETWEEN_PAUSES = 256;

/** Marks callers' strings for one template, and takes the marks away again. */
export class TokenGuard {
  readonly #forwards: SpellingTrie;
  readonly #backwards: SpellingTrie;
  readonly #maxLength: number;
  /** The first characters of spellings, and the marks. */
  readonly #candidates: RegExp;
  readonly #break: string;
  readonly #escape: string;
  /** Characters that are written as an escape: the marks, and spellings of one character. */
  readonly #escaped: readonly string[];
  readonly #escapes: RegExp;
  readonly #isSpelledWhenNormalized: (text: string) => boolean;

  /**
   * @param spellings - of control tokens
   * @param marks - two characters that the template does not have; texts may
   * @param isSpelledWhenNormalized - whether a text gets a spelling from normalization
   */
  constructor(
    spellings: readonly string[],
    [breaking, escaping]: readonly [string, string],
    isSpelledWhenNormalized: (text: string) => boolean = () => false,
  ) {
    const long = spellings.filter((spelling) => Array.from(spelling).length > 1);
    this.#forwards = new SpellingTrie(long);
    this.#backwards = new SpellingTrie(long.map(reversed));
    this.#maxLength = long.reduce((most, { length }) => Math.max(most, length), 0);
    this.#escaped = [breaking, escaping, ...spellings.filter((spelling) => Array.from(spelling).length === 1)];
    const firsts = [...new Set([...this.#escaped, ...long.map(firstCharacter)])];
    this.#candidates = new RegExp(firsts.map(escapedForRegex).join("|"), "gu");
    [this.#break, this.#escape] = [breaking, escaping];
    this.#escapes = new RegExp(`${escaping}(\\d+)${escaping}`, "gu");
    this.#isSpelledWhenNormalized = isSpelledWhenNormalized;
  }

  /** Marks all strings in a value, also names of fields; pauses. */
  *guard<Value>(value: Value): Generator<void, Guarded<Value>> {
    const progress = { isMarked: false, numValues: 0 };
    const guarded = (yield* this.#guardValue(value, "", progress)) as Value;
    const { isMarked } = progress;
    return { value: isMarked ? guarded : value, isMarked };
  }

  *#guardValue(value: unknown, name: string, progress: Progress): Generator<void, unknown> {
    if (++progress.numValues % VALUES_BETWEEN_PAUSES === 0) yield;
    if (typeof value === "string") {
      const isName = (name === "role" || name === "type") && PLAIN_NAME.test(value);
      return isName ? value : yield* this.#guardString(value, progress);
    }
    if (Array.isArray(value)) {
      const list: unknown[] = [];
      for (const entry of value as unknown[]) list.push(yield* this.#guardValue(entry, "", progress));
      return list;
    }
    if (typeof value !== "object" || value === null) return value;
    const fields: [string, unknown][] = [];
    for (const [field, entry] of Object.entries(value)) {
      const marked = PLAIN_NAME.test(field) ? field : yield* this.#guardString(field, progress);
      fields.push([marked, yield* this.#guardValue(entry, field, progress)]);
    }
    return Object.fromEntries(fields);
  }

  *#guardString(text: string, progress: Progress): Generator<void, string> {
    const marked = yield* this.#mark(text);
    if (marked !== text || this.#isSpelledWhenNormalized(text)) progress.isMarked = true;
    return marked;
  }

  /** A rendered text, or a part of it, without marks. */
  restore(text: string): string {
    const joined = text.includes(this.#break) ? text.replaceAll(this.#break, "") : text;
    if (!joined.includes(this.#escape)) return joined;
    return joined.replaceAll(this.#escapes, (_, index: string) => this.#escaped[Number(index)] ?? "");
  }

  *#mark(text: string): Generator<void, string> {
    const parts: string[] = [];
    let end = 0;
    let pauseAt = CHUNK_LENGTH;
    for (const { 0: character, index } of text.matchAll(this.#candidates)) {
      const escape = this.#escaped.indexOf(character);
      if (escape >= 0) {
        parts.push(text.slice(end, index), `${this.#escape}${escape}${this.#escape}`);
        end = index + character.length;
      } else if (this.#forwards.matchAt(text, index) > 0) {
        parts.push(text.slice(end, index + character.length), this.#break);
        end = index + character.length;
      }
      if (index >= pauseAt) {
        pauseAt = index + CHUNK_LENGTH;
        yield;
      }
    }
    parts.push(text.slice(end));
    return this.#markEnds(parts.length === 1 ? text : parts.join(""));
  }

  /** Breaks what may become a spelling together with the text before or behind, also once spaces are trimmed. */
  #markEnds(text: string): string {
    const trimmed = text.trimEnd();
    let marked = text;
    for (let at = Math.max(0, trimmed.length - this.#maxLength + 1); at < trimmed.length; at++) {
      if (!this.#forwards.beginsAt(trimmed, at)) continue;
      marked = trimmed + this.#break + text.slice(trimmed.length);
      break;
    }
    const start = marked.length - marked.trimStart().length;
    const beginning = reversed(marked.slice(start, start + this.#maxLength - 1));
    for (let at = 0; at < beginning.length; at++) {
      if (this.#backwards.beginsAt(beginning, at)) return marked.slice(0, start) + this.#break + marked.slice(start);
    }
    return marked;
  }
}

/**
 * Two noncharacters of Unicode that a template does not have.
 * @throws {ReadMeError} `ERR_CHAT_TEMPLATE` for one that has them all
 */
export function freeMarks(text: string): readonly [string, string] {
  const [first, second] = Array.from({ length: 32 }, (_, index) => String.fromCharCode(0xfdd0 + index)).filter(
    (character) => !text.includes(character),
  );
  if (first !== undefined && second !== undefined) return [first, second];
  throw new ReadMeError("ERR_CHAT_TEMPLATE", "The chat template has all characters from U+FDD0 to U+FDEF");
}

function firstCharacter(text: string): string {
  return String.fromCodePoint(text.codePointAt(0) as number);
}

function reversed(text: string): string {
  return Array.from({ length: text.length }, (_, index) => text.charAt(text.length - 1 - index)).join("");
}

function escapedForRegex(text: string): string {
  return text.replaceAll(/[$()*+.?[\\\]^{|}/-]/g, String.raw`\$&`);
}
