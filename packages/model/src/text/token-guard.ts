// Keeps spellings of control tokens in callers' strings from becoming control tokens, through the template and the cut
// at added tokens. Marks that no real text has break the spellings apart; they are removed before the text is encoded.

import { ReadMeError } from "@readme-moe/core";
import { isList } from "../files/text-file.ts";
import { SpellingTrie } from "./added-tokens.ts";
import { CHUNK_LENGTH } from "./pausing.ts";

/** A value whose strings are marked, and whether any string needed it. */
export interface Guarded<Value> {
  readonly value: Value;
  readonly isMarked: boolean;
}

interface Progress {
  isMarked: boolean;
  numValues: number;
}

// Names of speakers, types and fields: templates compare them, or write them between two halves of a token's spelling.
const PLAIN_NAME = /^[\w .-]{1,64}$/;

const VALUES_BETWEEN_PAUSES = 256;

/** Marks callers' strings for one template, and removes the marks again. */
export class TokenGuard {
  readonly #forwards: SpellingTrie;
  readonly #backwards: SpellingTrie;
  readonly #maxLength: number;
  /** Matches the first characters of spellings, and the marks. */
  readonly #candidates: RegExp;
  readonly #break: string;
  readonly #escape: string;
  /** Characters that are written as an escape: the marks, and spellings of one character. */
  readonly #escaped: readonly string[];
  readonly #escapes: RegExp;
  readonly #isSpelledWhenNormalized: (text: string) => boolean;

  /**
   * @param spellings - spellings of control tokens
   * @param marks - two characters that the template does not have; texts may have them
   * @param isSpelledWhenNormalized - checks that normalization makes a spelling out of a text
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
    const firsts = [...new Set([...this.#escaped, ...long.map(([first = ""]) => first)])];
    this.#candidates = new RegExp(firsts.map(escapedForRegex).join("|"), "gu");
    [this.#break, this.#escape] = [breaking, escaping];
    this.#escapes = new RegExp(`${escaping}(\\d+)${escaping}`, "gu");
    this.#isSpelledWhenNormalized = isSpelledWhenNormalized;
  }

  /** Marks all strings in a value, also names of fields, with pauses. */
  *guard<Value>(value: Value): Generator<void, Guarded<Value>> {
    const progress = { isMarked: false, numValues: 0 };
    // The copy has the shape of the value.
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
    if (isList(value)) {
      const list: unknown[] = [];
      for (const entry of value) list.push(yield* this.#guardValue(entry, "", progress));
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

  /** Removes the marks from a rendered text, or from a part of it. */
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

  /** Breaks beginnings and ends that may be spelled on by the text around them, also once spaces are trimmed. */
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
 * Returns two noncharacters of Unicode that a template does not have.
 * @throws {ReadMeError} `ERR_CHAT_TEMPLATE` for a template that has them all
 */
export function freeMarks(text: string): readonly [string, string] {
  const [first, second] = Array.from({ length: 32 }, (_, index) => String.fromCharCode(0xfdd0 + index)).filter(
    (character) => !text.includes(character),
  );
  if (first !== undefined && second !== undefined) return [first, second];
  throw new ReadMeError("ERR_CHAT_TEMPLATE", "The chat template has all characters from U+FDD0 to U+FDEF");
}

function reversed(text: string): string {
  return Array.from({ length: text.length }, (_, index) => text.charAt(text.length - 1 - index)).join("");
}

function escapedForRegex(text: string): string {
  return text.replaceAll(/[$()*+.?[\\\]^{|}/-]/g, String.raw`\$&`);
}
