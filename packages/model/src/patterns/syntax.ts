// The syntax of regular expressions from files: Python's, in which PEFT's configs name modules, and JavaScript's, to
// which the library rewrites the patterns of tokenizers.

import { type Accepts, PatternError, readCharacter } from "./javascript-character.ts";

/** A parsed expression. */
export type PatternNode =
  | { readonly kind: "character"; readonly accepts: Accepts }
  | { readonly kind: "sequence"; readonly parts: readonly PatternNode[] }
  | { readonly kind: "choice"; readonly options: readonly PatternNode[] }
  | RepeatNode
  | { readonly kind: "place"; readonly place: Place }
  | LookNode;

export interface RepeatNode {
  readonly kind: "repeat";
  readonly inner: PatternNode;
  readonly least: number;
  readonly most: number;
  /** Whether fewer times come first. */
  readonly isLazy: boolean;
}

export interface LookNode {
  readonly kind: "look";
  readonly inner: PatternNode;
  readonly isBehind: boolean;
  readonly isNegated: boolean;
}

export type Place = "start" | "end" | "boundary" | "inside";

/** `javascript` stands for what the library writes: expressions with the flag `u` and without anchors. */
export type Dialect = "python" | "javascript";

const MAX_CHARACTERS = 16_384;
const MAX_DEPTH = 64;

const isDigit: Accepts = (character) => /\p{Nd}/u.test(character);
const isSpace: Accepts = (character) => /\s/.test(character);
/** Tells whether `\w` accepts a character. */
export const isWord: Accepts = (character) => /[\p{L}\p{N}_]/u.test(character);
const not =
  (accepts: Accepts): Accepts =>
  (character) =>
    !accepts(character);
const CLASSES: ReadonlyMap<string, Accepts> = new Map([
  ["d", isDigit],
  ["D", not(isDigit)],
  ["s", isSpace],
  ["S", not(isSpace)],
  ["w", isWord],
  ["W", not(isWord)],
]);
const CONTROLS: ReadonlyMap<string, string> = new Map(
  Object.entries({ n: "\n", t: "\t", r: "\r", f: "\f", v: "\v", a: "\x07" }),
);
const PLACES: ReadonlyMap<string, Place> = new Map([
  ["A", "start"],
  ["Z", "end"],
  ["b", "boundary"],
  ["B", "inside"],
]);
const REPEATS: ReadonlyMap<string, readonly [number, number]> = new Map([
  ["*", [0, Infinity]],
  ["+", [1, Infinity]],
  ["?", [0, 1]],
]);

/** @throws {PatternError} saying what is wrong */
export function parsePattern(text: string, dialect: Dialect): PatternNode {
  const characters = Array.from(text);
  if (characters.length > MAX_CHARACTERS) throw new PatternError(`is longer than ${MAX_CHARACTERS} characters`);
  return new PatternParser(characters, dialect).whole();
}

/** Returns a lower bound of the length of a match, in characters. */
export function leastLength(node: PatternNode): number {
  if (node.kind === "character") return 1;
  if (node.kind === "sequence") return node.parts.reduce((sum, part) => sum + leastLength(part), 0);
  if (node.kind === "choice") return Math.min(...node.options.map(leastLength));
  return node.kind === "repeat" ? node.least * leastLength(node.inner) : 0;
}

class PatternParser {
  readonly #text: readonly string[];
  readonly #isPython: boolean;
  #at = 0;
  #depth = 0;
  #ignoresCase = false;

  constructor(text: readonly string[], dialect: Dialect) {
    this.#text = text;
    this.#isPython = dialect === "python";
  }

  whole(): PatternNode {
    this.#flags();
    const root = this.#choice();
    if (this.#at < this.#text.length) throw new PatternError("has a `)` too many");
    return root;
  }

  /** Reads flags of the whole expression, such as `(?i)`. */
  #flags(): void {
    const flags = /^\(\?([aiLmsu]+)\)/.exec(this.#text.slice(0, 16).join(""));
    if (flags === null) return;
    this.#ignoresCase = flags[1]?.includes("i") ?? false;
    this.#at = flags[0].length;
  }

  #take(wanted: string): boolean {
    const isThere = Array.from(wanted).every((character, at) => this.#text[this.#at + at] === character);
    if (isThere) this.#at += wanted.length;
    return isThere;
  }

  #next(): string {
    const character = this.#text[this.#at++];
    if (character === undefined) throw new PatternError("ends too early");
    return character;
  }

  #choice(): PatternNode {
    if (++this.#depth > MAX_DEPTH) throw new PatternError(`nests deeper than ${MAX_DEPTH} levels`);
    const options = [this.#sequence()];
    while (this.#take("|")) options.push(this.#sequence());
    this.#depth -= 1;
    const [only] = options;
    return options.length === 1 && only ? only : { kind: "choice", options };
  }

  #sequence(): PatternNode {
    const parts: PatternNode[] = [];
    while (!this.#isAtEnd()) parts.push(this.#repeated(this.#atom()));
    return { kind: "sequence", parts };
  }

  #isAtEnd(): boolean {
    this.#skipComments();
    const character = this.#text[this.#at];
    return character === undefined || character === "|" || character === ")";
  }

  #skipComments(): void {
    while (this.#take("(?#")) while (this.#next() !== ")");
  }

  #repeated(inner: PatternNode): PatternNode {
    const counts = this.#counts();
    if (counts === undefined) return inner;
    const [least, most] = counts;
    if (inner.kind === "place") throw new PatternError("repeats a place instead of characters");
    if (least > most) throw new PatternError(`has the counts ${least} and ${most} in the wrong order`);
    const isLazy = this.#take("?");
    if (!isLazy && this.#text[this.#at] === "+") throw new PatternError("has a possessive repetition");
    if (this.#counts() !== undefined) throw new PatternError("repeats a repetition");
    return { kind: "repeat", inner, least, most, isLazy };
  }

  /** Reads a quantifier; leaves a brace that is none, which stands for itself. */
  #counts(): readonly [number, number] | undefined {
    this.#skipComments();
    const character = this.#text[this.#at] ?? "";
    const simple = REPEATS.get(character);
    if (simple !== undefined) {
      this.#at += 1;
      return simple;
    }
    if (character !== "{") return undefined;
    const braces = /^\{(\d{0,9})(,?)(\d{0,9})\}/.exec(this.#text.slice(this.#at, this.#at + 24).join(""));
    const [all = "", least = "", comma = "", most = ""] = braces ?? [];
    if (least + comma + most === "") return undefined;
    this.#at += all.length;
    const fewest = Number(least);
    if (comma === "") return [fewest, fewest];
    return [fewest, most === "" ? Infinity : Number(most)];
  }

  /** Reads what a quantifier may follow. */
  #atom(): PatternNode {
    const character = this.#next();
    if (character === "(") return this.#group();
    if (!this.#isPython) {
      const { accepts, end } = readCharacter(this.#text, this.#at - 1);
      this.#at = end;
      return this.#character(accepts);
    }
    if (character === "[") return this.#character(this.#set());
    if (character === ".") return this.#character((other) => other !== "\n");
    if (character === "^") return { kind: "place", place: "start" };
    if (character === "$") return { kind: "place", place: "end" };
    if (REPEATS.has(character)) throw new PatternError(`has a \`${character}\` with nothing to repeat`);
    if (character !== "\\") return this.#character(this.#literal(character));
    const place = PLACES.get(this.#text[this.#at] ?? "");
    if (place === undefined) return this.#character(this.#escape());
    this.#at += 1;
    return { kind: "place", place };
  }

  #character(accepts: Accepts): PatternNode {
    return { kind: "character", accepts };
  }

  #literal(literal: string): Accepts {
    if (!this.#ignoresCase) return (character) => character === literal;
    const folded = literal.toLowerCase();
    return (character) => character.toLowerCase() === folded;
  }

  #group(): PatternNode {
    if (!this.#take("?")) return this.#closed(this.#choice());
    if (this.#take(":")) return this.#closed(this.#choice());
    if (this.#isPython ? this.#take("P<") : this.#isNamed() && this.#take("<")) {
      let name = "";
      for (let character = this.#next(); character !== ">"; character = this.#next()) name += character;
      if (!/^[\p{L}_][\p{L}\p{N}_]*$/u.test(name)) throw new PatternError("has a group without a proper name");
      return this.#closed(this.#choice());
    }
    const isBehind = this.#take("<");
    const isNegated = this.#take("!");
    if (!isNegated && !this.#take("=")) throw new PatternError("has a group of a kind that is not read");
    return { kind: "look", inner: this.#closed(this.#choice()), isBehind, isNegated };
  }

  #isNamed(): boolean {
    return this.#text[this.#at] === "<" && !["=", "!"].includes(this.#text[this.#at + 1] ?? "");
  }

  #closed(inner: PatternNode): PatternNode {
    if (!this.#take(")")) throw new PatternError("has a `(` that is not closed");
    return inner;
  }

  /** Reads an escape behind its backslash. */
  #escape(): Accepts {
    const name = this.#text[this.#at] ?? "";
    const accepts = CLASSES.get(name);
    if (accepts === undefined) return this.#literal(this.#escapedCharacter());
    this.#at += 1;
    return accepts;
  }

  #escapedCharacter(): string {
    const name = this.#next();
    const control = CONTROLS.get(name);
    if (control !== undefined) return control;
    const digits = name === "x" ? 2 : name === "u" ? 4 : 0;
    if (digits > 0) {
      const code = this.#text.slice(this.#at, this.#at + digits).join("");
      if (!/^[0-9a-fA-F]+$/.test(code) || code.length < digits) throw new PatternError(`has an unknown \`\\${name}\``);
      this.#at += digits;
      return String.fromCharCode(Number.parseInt(code, 16));
    }
    if (/[A-Za-z0-9]/.test(name)) throw new PatternError(`has \`\\${name}\`, which is not read`);
    return name;
  }

  /** Reads a set of characters behind its bracket. */
  #set(): Accepts {
    const isNegated = this.#take("^");
    const members: Accepts[] = [];
    // A bracket in the first place stands for itself.
    for (let isFirst = true; isFirst || this.#text[this.#at] !== "]"; isFirst = false) members.push(this.#member());
    this.#at += 1;
    const accepts: Accepts = (character) => members.some((member) => member(character));
    return isNegated ? not(accepts) : accepts;
  }

  #member(): Accepts {
    const from = this.#next();
    if (from === "\\" && CLASSES.has(this.#text[this.#at] ?? "")) {
      const accepts = this.#escape();
      if (this.#isRange()) throw new PatternError("has a range of characters that begins with a class");
      return accepts;
    }
    const first = from === "\\" ? this.#setEscape() : from;
    if (!this.#isRange()) return this.#literal(first);
    this.#at += 1;
    const to = this.#next();
    const last = to === "\\" ? this.#setEscape() : to;
    if (first > last) throw new PatternError("has a range of characters in the wrong order");
    const holds: Accepts = (character) => character >= first && character <= last;
    if (!this.#ignoresCase) return holds;
    return (character) => holds(character.toLowerCase()) || holds(character.toUpperCase());
  }

  #isRange(): boolean {
    return this.#text[this.#at] === "-" && this.#text[this.#at + 1] !== "]";
  }

  #setEscape(): string {
    return this.#take("b") ? "\b" : this.#escapedCharacter();
  }
}
