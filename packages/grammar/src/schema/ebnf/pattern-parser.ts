import { parsePattern, PatternError, type PatternNode, type PatternRepeat } from "@readme-moe/core";
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
const CHARACTER_STEPS = 10;
const CLASS_STEPS = 100;

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
    const root = parsePattern(pattern, MAX_NESTING);
    return this.#node(root.kind === "choice" ? { ...root, options: root.options.map(withoutAnchors) } : root);
  }

  #node(node: PatternNode): string {
    switch (node.kind) {
      case "character":
        return this.#character(node.source);
      case "sequence":
        return node.parts.length === 0 ? '""' : node.parts.map((part) => this.#node(part)).join(" ");
      case "choice":
        return `(${node.options.map((option) => this.#node(option)).join(" | ")})`;
      case "repeat":
        return `${this.#node(node.inner)}${suffixOf(node)}`;
      case "place":
      case "look":
        throw new PatternError(node.kind === "place" ? `\`${node.place}\` here` : "a look ahead or behind");
      default:
        return node;
    }
  }

  #character(text: string): string {
    let written = this.#written.get(text);
    if (written === undefined) {
      this.#budget.spend(text.length === 1 ? CHARACTER_STEPS : CLASS_STEPS);
      written = this.#writeCharacter(new SetReader(text).whole());
      if (written === undefined) throw new PatternError("a class without a character that can be written");
      this.#written.set(text, written);
    }
    this.#budget.write(written.length);
    return written;
  }
}

/** Removes anchors of the whole pattern's alternatives: a pattern is matched from beginning to end anyway. */
function withoutAnchors(option: PatternNode): PatternNode {
  if (option.kind !== "sequence") return option;
  const { parts } = option;
  const from = isPlace(parts[0], "^") ? 1 : 0;
  return { kind: "sequence", parts: parts.slice(from, isPlace(parts.at(-1), "$") ? -1 : undefined) };
}

function isPlace(part: PatternNode | undefined, place: "^" | "$"): boolean {
  return part?.kind === "place" && part.place === place;
}

/** Writes a repetition. A lazy one allows the same texts. */
function suffixOf({ least, most }: PatternRepeat): string {
  if (Math.max(least, most === Infinity ? 0 : most) > MAX_REPEATS) {
    throw new PatternError(`more than ${MAX_REPEATS} repetitions`);
  }
  if (most === Infinity) return ["*", "+"][least] ?? `{${least},}`;
  if (least === most) return `{${least}}`;
  return least === 0 && most === 1 ? "?" : `{${least},${most}}`;
}

/** Reads the set of a character, a class or an escape. */
class SetReader {
  readonly #characters: readonly string[];
  #at = 0;

  constructor(text: string) {
    this.#characters = Array.from(text);
  }

  whole(): CodePoints {
    if (this.#characters.length === 1) return this.#characters[0] === "." ? ANY : one(this.#next());
    return this.#take("[") ? this.#set() : this.#member();
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
    return this.#take("b") ? [[8, 8]] : this.#escape();
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
  const code = character.codePointAt(0) ?? 0;
  return [[code, code]];
}

function single(set: CodePoints): number {
  const [[from, to] = [0, 1], ...rest] = set;
  if (from !== to || rest.length > 0) throw new PatternError("a range between classes");
  return from;
}
