// The syntax of JavaScript's regular expressions, for those that JavaScript must not run itself: it would try the same
// again and again, for years if they are hostile.

/** An expression with a part that is wrong or not supported, which the message names. */
export class PatternError extends Error {
  override readonly name = "PatternError";
}

/** A parsed expression. */
export type PatternNode =
  /** One character: itself, a class or an escape, as it is written. */
  | { readonly kind: "character"; readonly source: string }
  | { readonly kind: "sequence"; readonly parts: readonly PatternNode[] }
  | { readonly kind: "choice"; readonly options: readonly PatternNode[] }
  | PatternRepeat
  | { readonly kind: "place"; readonly place: PatternPlace }
  | PatternLook;

/** A repetition. */
export interface PatternRepeat {
  readonly kind: "repeat";
  readonly inner: PatternNode;
  readonly least: number;
  readonly most: number;
  /** Whether fewer times come first. */
  readonly isLazy: boolean;
}

/** Text before or behind a place. */
export interface PatternLook {
  readonly kind: "look";
  readonly inner: PatternNode;
  readonly isBehind: boolean;
  readonly isNegated: boolean;
}

/** Places by how they are written. */
export type PatternPlace = "^" | "$" | "\\b" | "\\B";

const PLACES: ReadonlySet<string> = new Set(["^", "$", "\\b", "\\B"] satisfies PatternPlace[]);

const REPEATS: ReadonlyMap<string, readonly [number, number]> = new Map([
  ["*", [0, Infinity]],
  ["+", [1, Infinity]],
  ["?", [0, 1]],
]);

/** Numbers of digits behind the letters of escapes. */
const DIGITS: ReadonlyMap<string, number> = new Map([
  ["c", 1],
  ["u", 4],
  ["x", 2],
]);

/**
 * Parses an expression. What a class or an escape contains is not checked.
 *
 * @param maxNesting - most groups in each other
 * @throws {PatternError} naming what is wrong
 */
export function parsePattern(pattern: string, maxNesting: number): PatternNode {
  return new Parser(Array.from(pattern), maxNesting).whole();
}

class Parser {
  readonly #text: readonly string[];
  readonly #maxNesting: number;
  #at = 0;
  #nesting = 0;

  constructor(text: readonly string[], maxNesting: number) {
    this.#text = text;
    this.#maxNesting = maxNesting;
  }

  whole(): PatternNode {
    const root = this.#choice();
    if (this.#at < this.#text.length) throw new PatternError("a `)` too many");
    return root;
  }

  #choice(): PatternNode {
    const options = [this.#sequence()];
    while (this.#take("|")) options.push(this.#sequence());
    return { kind: "choice", options };
  }

  #sequence(): PatternNode {
    const parts: PatternNode[] = [];
    while (!["|", ")", undefined].includes(this.#text[this.#at])) parts.push(this.#repeated(this.#atom()));
    return { kind: "sequence", parts };
  }

  #repeated(inner: PatternNode): PatternNode {
    const counts = inner.kind === "place" ? undefined : this.#counts();
    if (counts === undefined) return inner;
    const [least, most] = counts;
    return { kind: "repeat", inner, least, most, isLazy: this.#take("?") };
  }

  #counts(): readonly [number, number] | undefined {
    const simple = REPEATS.get(this.#text[this.#at] ?? "");
    if (simple !== undefined) {
      this.#at += 1;
      return simple;
    }
    const braces = /^\{(\d{1,9})(,?)(\d{0,9})\}/.exec(this.#text.slice(this.#at, this.#at + 24).join(""));
    if (braces === null) return undefined;
    const [all, least, comma, most = ""] = braces;
    const counts = [Number(least), most === "" ? (comma === "" ? Number(least) : Infinity) : Number(most)] as const;
    if (counts[0] > counts[1]) throw new PatternError(`the counts of \`${all}\` in the wrong order`);
    this.#at += all.length;
    return counts;
  }

  #atom(): PatternNode {
    const from = this.#at;
    const character = this.#next();
    if (character === "(") return this.#group();
    if (character === "[") this.#skipClass();
    if (character === "\\") this.#skipEscape();
    const source = this.#text.slice(from, this.#at).join("");
    if (PLACES.has(source)) return { kind: "place", place: source as PatternPlace };
    if (REPEATS.has(source) || source === "{") throw new PatternError(`\`${source}\` here`);
    if (/^\\[1-9k]/.test(source)) throw new PatternError(`\`${source}\``);
    return { kind: "character", source };
  }

  #group(): PatternNode {
    const kind = ["?:", "?=", "?!", "?<=", "?<!", "?<", ""].find((start) => this.#take(start)) ?? "";
    if (kind === "" && this.#take("?")) throw new PatternError(`a group with \`?${this.#text[this.#at] ?? ""}\``);
    if (kind === "?<") this.#skipName();
    if (++this.#nesting > this.#maxNesting) {
      throw new PatternError(`more than ${this.#maxNesting} groups in each other`);
    }
    const inner = this.#choice();
    this.#nesting -= 1;
    if (!this.#take(")")) throw new PatternError("a group without an end");
    if (!/[=!]$/.test(kind)) return inner;
    return { kind: "look", inner, isBehind: kind.includes("<"), isNegated: kind.endsWith("!") };
  }

  #skipName(): void {
    let name = "";
    for (let next = this.#next(); next !== ">"; next = this.#next()) name += next;
    if (!/^[\p{L}_][\p{L}\p{N}_]*$/u.test(name)) throw new PatternError("a group without a proper name");
  }

  #skipClass(): void {
    for (let next = this.#next(); next !== "]"; next = this.#next()) if (next === "\\") this.#next();
  }

  #skipEscape(): void {
    const letter = this.#next();
    if (this.#text[this.#at] === "{" && /[pPu]/.test(letter)) {
      while (this.#next() !== "}");
      return;
    }
    const from = this.#at;
    this.#at = Math.min(this.#text.length, from + (DIGITS.get(letter) ?? 0));
    // Two escapes of surrogates are one character.
    const isPair = /^u[dD][89abAB].{2}\\u[dD][c-fC-F].{2}/.test(this.#text.slice(from - 1, from + 10).join(""));
    if (isPair) this.#at += 6;
  }

  #next(): string {
    const character = this.#text[this.#at++];
    if (character === undefined) throw new PatternError("an end that comes too early");
    return character;
  }

  #take(wanted: string): boolean {
    const isThere = Array.from(wanted).every((character, at) => this.#text[this.#at + at] === character);
    if (isThere) this.#at += wanted.length;
    return isThere;
  }
}
