import type { Budget } from "../../grammar-source.ts";
import { complement, union, type CodePoints } from "./code-points.ts";

const DIGITS: CodePoints = [[0x30, 0x39]];
const WORD: CodePoints = [...DIGITS, [0x41, 0x5a], [0x5f, 0x5f], [0x61, 0x7a]];
const SPACE: CodePoints = [
  [0x09, 0x0d],
  [0x20, 0x20],
  [0xa0, 0xa0],
  [0x2028, 0x2029],
  [0x3000, 0x3000],
];
const ANY: CodePoints = complement([
  [0x0a, 0x0a],
  [0x0d, 0x0d],
  [0x2028, 0x2029],
]);
const CONTROL: Readonly<Record<string, number>> = { t: 9, n: 10, v: 11, f: 12, r: 13 };
const MAX_REPEATS = 512;
const MAX_NESTING = 32;
const MAX_CHARACTERS = 16_384;
const MAX_SHOWN = 16;
const CHARACTER_STEPS = 10;
const CLASS_STEPS = 100;

/** A part of a pattern that is not supported. */
export class PatternError extends Error {
  override readonly name = "PatternError";
}

/** Writes the grammar of one character of a set; `undefined` when none can be written. */
type WriteCharacter = (set: CodePoints) => string | undefined;

/** Writes regular expressions as grammars. Classes that occur in several of them are written once. */
export class PatternWriter {
  readonly #writeCharacter: WriteCharacter;
  readonly #budget: Budget;
  readonly #written = new Map<string, string>(); // by the class's text in a pattern

  constructor(writeCharacter: WriteCharacter, budget: Budget) {
    this.#writeCharacter = writeCharacter;
    this.#budget = budget;
  }

  /**
   * Writes the grammar of the texts that a regular expression matches as a whole. Classes that exclude a character
   * outside ASCII, such as `.`, are reduced to ASCII.
   *
   * @throws {PatternError} naming what is not supported
   * @throws {RangeError} when it is too long
   */
  write(pattern: string): string {
    if (pattern.length > MAX_CHARACTERS) {
      throw new RangeError(`Expected a pattern of at most ${MAX_CHARACTERS} characters, got ${pattern.length}`);
    }
    this.#budget.spend(2 * pattern.length);
    return new PatternParser(pattern, (set, text) => this.#character(set, text)).parse();
  }

  #character(set: CodePoints, text: string): string {
    let written = this.#written.get(text);
    if (written === undefined) {
      this.#budget.spend(text.length === 1 ? CHARACTER_STEPS : CLASS_STEPS);
      written = this.#writeCharacter(set);
      if (written === undefined) throw new PatternError("a class without a character that can be written");
      this.#written.set(text, written);
    }
    this.#budget.write(written.length);
    return written;
  }
}

class PatternParser {
  readonly #characters: readonly string[];
  readonly #writeClass: (set: CodePoints, text: string) => string;
  #at = 0;
  #nesting = 0;

  constructor(pattern: string, writeClass: (set: CodePoints, text: string) => string) {
    this.#writeClass = writeClass;
    this.#characters = Array.from(pattern);
  }

  parse(): string {
    const body = this.#alternatives();
    if (this.#at < this.#characters.length) throw new PatternError("a `)` too many");
    return body;
  }

  #alternatives(): string {
    const choices = [this.#sequence()];
    while (this.#take("|")) choices.push(this.#sequence());
    return `(${choices.join(" | ")})`;
  }

  #sequence(): string {
    const parts: string[] = [];
    // Anchors of the whole pattern's alternatives: a pattern is matched from beginning to end anyway.
    if (this.#nesting === 0) this.#take("^");
    while (this.#peek() !== undefined && this.#peek() !== "|" && this.#peek() !== ")") {
      if (this.#nesting === 0 && this.#peek() === "$" && [undefined, "|"].includes(this.#peek(1))) this.#at++;
      else parts.push(this.#repeated(this.#atom()));
    }
    return parts.length === 0 ? '""' : parts.join(" ");
  }

  #atom(): string {
    const from = this.#at;
    const character = this.#next();
    if (character === "(") return this.#group();
    if (character === "[") return this.#write(this.#set(), from);
    if (character === ".") return this.#write(ANY, from);
    if (character === "\\") return this.#write(this.#escape(), from);
    if ("^$*+?{".includes(character)) throw new PatternError(`\`${character}\` here`);
    return this.#write(one(character), from);
  }

  #group(): string {
    if (this.#take("?") && !this.#take(":")) throw new PatternError(`a group with \`?${this.#peek() ?? ""}\``);
    if (++this.#nesting > MAX_NESTING) throw new PatternError(`more than ${MAX_NESTING} groups in each other`);
    const body = this.#alternatives();
    this.#nesting--;
    if (!this.#take(")")) throw new PatternError("a group without an end");
    return body;
  }

  #repeated(atom: string): string {
    let suffix = "";
    const sign = ["*", "+", "?"].find((mark) => this.#take(mark));
    if (sign !== undefined) suffix = sign;
    else if (this.#take("{")) {
      let range = "";
      while (this.#peek() !== undefined && this.#peek() !== "}") range += this.#next();
      const [, least, comma, most] = /^(\d+)(,?)(\d*)$/.exec(range) ?? [];
      if (least === undefined || !this.#take("}")) throw new PatternError(`\`{${range.slice(0, MAX_SHOWN)}\` here`);
      if (Number(most || least) > MAX_REPEATS || Number(least) > Number(most || least)) {
        throw new PatternError(`\`{${range.slice(0, MAX_SHOWN)}}\`; at most ${MAX_REPEATS} times are`);
      }
      suffix = `{${Number(least)}${comma ?? ""}${most ? Number(most) : ""}}`;
    }
    // A lazy quantifier allows the same texts.
    if (suffix !== "") this.#take("?");
    return `${atom}${suffix}`;
  }

  #set(): CodePoints {
    const isNegated = this.#take("^");
    const sets: CodePoints[] = [];
    while (!this.#take("]")) {
      const from = this.#member();
      const isRange = this.#peek() === "-" && this.#peek(1) !== "]" && this.#peek(1) !== undefined;
      if (!isRange) {
        sets.push(from);
        continue;
      }
      this.#at++;
      const to = this.#member();
      const [first, last] = [single(from), single(to)];
      if (first > last) throw new PatternError("a range that runs backwards");
      sets.push([[first, last]]);
    }
    return isNegated ? complement(union(sets)) : union(sets);
  }

  #member(): CodePoints {
    const character = this.#next();
    if (character !== "\\") return one(character);
    if (this.#take("b")) return [[8, 8]];
    return this.#escape();
  }

  #escape(): CodePoints {
    const character = this.#next();
    switch (character) {
      case "d":
        return DIGITS;
      case "D":
        return complement(DIGITS);
      case "w":
        return WORD;
      case "W":
        return complement(WORD);
      case "s":
        return SPACE;
      case "S":
        return complement(SPACE);
      case "x":
        return this.#hexadecimal(2);
      case "u":
        return this.#hexadecimal(4);
      default:
        break;
    }
    const control = CONTROL[character];
    if (control !== undefined) return [[control, control]];
    if (/[A-Za-z0-9]/.test(character)) throw new PatternError(`\`\\${character}\``);
    return one(character);
  }

  #hexadecimal(length: number): CodePoints {
    const digits = this.#characters.slice(this.#at, this.#at + length).join("");
    if (!new RegExp(`^[0-9A-Fa-f]{${length}}$`).test(digits)) throw new PatternError("`\\u` or `\\x` without a number");
    this.#at += length;
    const code = Number.parseInt(digits, 16);
    return [[code, code]];
  }

  #write(set: CodePoints, from: number): string {
    return this.#writeClass(set, this.#characters.slice(from, this.#at).join(""));
  }

  #peek(ahead = 0): string | undefined {
    return this.#characters[this.#at + ahead];
  }

  #next(): string {
    const character = this.#characters[this.#at++];
    if (character === undefined) throw new PatternError("an end that comes too early");
    return character;
  }

  #take(character: string): boolean {
    if (this.#peek() !== character) return false;
    this.#at++;
    return true;
  }
}

function one(character: string): CodePoints {
  const code = character.codePointAt(0) as number;
  return [[code, code]];
}

function single(set: CodePoints): number {
  const [[from, to] = [0, 1], ...rest] = set;
  if (from !== to || rest.length > 0) throw new PatternError("a range between classes");
  return from;
}
