// Reads JSON one value at a time, so that a hostile header is refused at its first fault. JSON.parse accepts duplicate
// keys, and builds everything that a file holds, at any depth, before it can be checked.

import { ReadMeError } from "@readme-moe/core";
import { quoted } from "../files/errors.ts";

const MAX_DEPTH = 32;
// A header has some 12 keys and values for each tensor, and the largest checkpoints have some 150,000 tensors.
const MAX_VALUES = 2 ** 21;
const MAX_KEYS = 2 ** 18;
const WHITESPACE = /[ \t\n\r]*/y;
/** A string that stands for itself; longer ones would overflow the stack of the expression. */
const PLAIN = /^[ !#-[\]-~]{0,500}$/;
const INTEGER = /(?:0|[1-9]\d*)(?![\d.eE])/y;
const OTHER_SCALAR = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/y;

/** A cursor over JSON text. Every method reads one value at the cursor; none accepts a duplicate key. */
export class JsonReader {
  /** The file and the part of it that is being read, for messages. */
  subject: string;
  readonly #text: string;
  #at = 0;
  #depth = 0;
  #valuesLeft = MAX_VALUES;

  constructor(text: string, subject: string) {
    this.#text = text;
    this.subject = subject;
  }

  /** Reads an object; `member` has to read the value of its key. */
  object(member: (key: string) => void): void {
    const keys = new Set<string>();
    this.#list("{", "}", () => {
      const key = this.string();
      if (keys.has(key)) throw this.problem(`has the key ${quoted(key)} twice`);
      if (keys.add(key).size > MAX_KEYS) throw this.problem(`has more than ${MAX_KEYS} keys, which no checkpoint has`);
      if (!this.#take(":")) throw this.#expected("`:`");
      member(key);
    });
  }

  /** Reads an array; `element` has to read one element. */
  array(element: () => void): void {
    this.#list("[", "]", element);
  }

  string(): string {
    const start = this.#at + (this.#match(WHITESPACE)?.length ?? 0);
    const end = endOfString(this.#text, start);
    if (end === undefined) throw this.#expected("a string");
    try {
      const text = this.#text.slice(start + 1, end - 1);
      const value = PLAIN.test(text) ? text : String(JSON.parse(`"${text}"`));
      this.#at = end;
      return value;
    } catch {
      throw this.#expected("a string without unknown escapes and control characters");
    }
  }

  /** Reads an integer from 0 to 2^53 - 1, written without fraction or exponent. */
  integer(): number {
    const literal = this.#match(INTEGER);
    const value = Number(literal ?? NaN);
    if (!Number.isSafeInteger(value)) throw this.#expected("an integer from 0 to 2^53 - 1");
    return value;
  }

  /** Reads a value of any kind and drops it. */
  skip(): void {
    this.#match(WHITESPACE);
    const next = this.#text[this.#at];
    if (next === "{") this.object(() => this.skip());
    else if (next === "[") this.array(() => this.skip());
    else if (next === '"') this.string();
    else if (this.#match(OTHER_SCALAR) === undefined) throw this.#expected("a value");
  }

  /** Checks that only whitespace follows. @throws {ReadMeError} `ERR_FILE_CORRUPT` */
  end(): void {
    this.#match(WHITESPACE);
    if (this.#at !== this.#text.length) throw this.#expected("the end");
  }

  /** Makes the error for a fault of the file, to be thrown by the caller. */
  problem(message: string): ReadMeError {
    return new ReadMeError("ERR_FILE_CORRUPT", `${this.subject} ${message}`);
  }

  #list(open: string, close: string, item: () => void): void {
    if (!this.#take(open)) throw this.#expected(`\`${open}\``);
    if (++this.#depth > MAX_DEPTH) throw this.problem(`nests deeper than ${MAX_DEPTH} levels`);
    if (!this.#take(close)) {
      do {
        if (--this.#valuesLeft < 0) throw this.problem(`has more than ${MAX_VALUES} values, which no checkpoint has`);
        item();
      } while (this.#take(","));
      if (!this.#take(close)) throw this.#expected(`\`,\` or \`${close}\``);
    }
    this.#depth -= 1;
  }

  #take(character: string): boolean {
    this.#match(WHITESPACE);
    if (this.#text[this.#at] !== character) return false;
    this.#at += 1;
    return true;
  }

  #match(pattern: RegExp): string | undefined {
    if (pattern !== WHITESPACE) this.#match(WHITESPACE);
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text)?.[0];
    if (found !== undefined) this.#at += found.length;
    return found;
  }

  #expected(what: string): ReadMeError {
    return this.problem(`is no valid JSON: expected ${what} at character ${this.#at}`);
  }
}

/** Finds the end of a string without a regular expression, which would overflow its stack on a long string. */
function endOfString(text: string, start: number): number | undefined {
  if (text[start] !== '"') return undefined;
  for (let at = start + 1; at < text.length; at++) {
    if (text[at] === "\\") at += 1;
    else if (text[at] === '"') return at + 1;
  }
  return undefined;
}
