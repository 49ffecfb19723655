// Matches regular expressions from files. JavaScript's own would try the same again and again, for years if they are
// hostile. A search here remembers from which places it failed: all searches of a text together take linear time.

import { parsePattern, PatternError, type PatternNode, type PatternPlace } from "@readme-moe/core";
import { compile, type CompileOptions, type Look, OP, type Program } from "./program.ts";

const MAX_NESTING = 64;

// A word of letters, one as long as a whole request's text, takes a quarter.
const MAX_OTHERS = 2 ** 24;
const MAX_MARK_WORDS = 2 ** 24;

/** Counts steps, also of several patterns together. */
export class StepLimit {
  left: number;
  readonly #max: number;
  readonly #problem: (cause: PatternError) => Error;

  /** @param problem - makes the error that is thrown @default the `PatternError` itself */
  constructor(max: number, problem: (cause: PatternError) => Error = (cause) => cause) {
    this.left = max;
    this.#max = max;
    this.#problem = problem;
  }

  /** Begins to count again. */
  restart(): void {
    this.left = this.#max;
  }

  /** @throws {Error} when there are too many */
  spend(count: number): void {
    this.left -= count;
    if (this.left < 0) throw this.problem(`takes more than ${this.#max} steps`);
  }

  /** Makes the error for a search that takes too much. */
  problem(message: string): Error {
    return this.#problem(new PatternError(message));
  }
}

/** A match, as JavaScript's own searches give it. */
export interface Match {
  readonly 0: string;
  readonly index: number;
}

/** Finds matches one after another, as an expression of JavaScript with the flag `g` does. */
export interface Finder {
  /** Place from which the next search begins. */
  lastIndex: number;
  /** Returns the next match, `null` without one, and `undefined` for a pause, after which the search goes on. */
  exec(text: string): Match | null | undefined;
}

/** A regular expression from a file. */
export class Pattern {
  /** Lower bound of a match's length. */
  readonly leastLength: number;
  readonly #program: Program;

  /**
   * @param text - an expression of JavaScript with the flags `s` and `u`
   * @throws {PatternError} when a part of it is wrong or not read here, or when it is too large
   */
  constructor(text: string, options: CompileOptions) {
    try {
      const root = parsePattern(text, MAX_NESTING);
      this.leastLength = leastLength(root);
      this.#program = compile(root, options);
    } catch (cause) {
      throw cause instanceof PatternError
        ? new PatternError(`has ${cause.message}, which is not supported`, { cause })
        : cause;
    }
  }

  /** Number of instructions, which memory and time depend on. */
  get length(): number {
    return this.#program.ops.length;
  }

  /** Tells whether a name, or what follows one of its dots, matches: `re.match(rf"(.*\.)?({pattern})$", name)`. */
  matchesSuffix(name: string, limit: StepLimit): boolean {
    const search = new Search(this.#program, name, limit);
    for (let start = 0; ; start = name.indexOf(".", start) + 1) {
      if (search.run(0, start, name.length) >= 0) return true;
      if (!name.includes(".", start)) return false;
    }
  }

  /** Returns a search of one text, whose `exec` takes the same text. */
  finder(text: string, limit: StepLimit): Finder {
    return new Search(this.#program, text, limit);
  }
}

const WORD = /[\p{L}\p{N}_]/u;

/** Returns a lower bound of the length of a match, in characters. */
function leastLength(node: PatternNode): number {
  if (node.kind === "character") return 1;
  if (node.kind === "sequence") return node.parts.reduce((sum, part) => sum + leastLength(part), 0);
  if (node.kind === "choice") return Math.min(...node.options.map(leastLength));
  return node.kind === "repeat" ? node.least * leastLength(node.inner) : 0;
}

/** Steps between two pauses. */
const STEPS_BETWEEN_PAUSES = 2 ** 16;
/** Results of looks that are remembered. */
const MAX_KNOWN_LOOKS = 2 ** 16;

/** Places in which marks have been. */
class Marks {
  readonly #limit: StepLimit;
  readonly #words: number; // of each place
  #bits = new Uint32Array(64);
  #base = 0;
  #last = -1;

  constructor(numMarks: number, limit: StepLimit) {
    this.#limit = limit;
    this.#words = Math.ceil(numMarks / 32);
  }

  /** Adds a mark; returns false when it was there. */
  add(at: number, mark: number): boolean {
    const index = (at - this.#base) * this.#words + (mark >>> 5);
    if (index >= this.#bits.length) this.#grow(index);
    if (at > this.#last) this.#last = at;
    const bit = 1 << (mark & 31);
    const word = this.#bits[index] ?? 0;
    this.#bits[index] = word | bit;
    return (word & bit) === 0;
  }

  /** Forgets the places up to `at`. Those behind it stay: what failed from there fails again. */
  forget(at: number): void {
    const words = this.#words;
    const [numBefore, numKept] = [at - this.#base, this.#last - at];
    const end = (this.#last + 1 - this.#base) * words;
    if (numKept <= 0) {
      this.#bits.fill(0, 0, Math.max(0, end));
      this.#base = at;
      this.#last = -1;
      return;
    }
    if (numBefore > numKept) {
      this.#bits.copyWithin(0, numBefore * words, end);
      this.#bits.fill(0, end - numBefore * words, end);
      this.#base = at;
    }
    this.#bits.fill(0, (at - this.#base) * words, (at + 1 - this.#base) * words);
  }

  #grow(index: number): void {
    if (index >= MAX_MARK_WORDS) throw this.#limit.problem("fails in too many places");
    const grown = new Uint32Array(Math.max(index + 1, 2 * this.#bits.length));
    grown.set(this.#bits);
    this.#bits = grown;
  }
}

/** The searches of one text. */
class Search implements Finder {
  lastIndex = 0;
  readonly #program: Program;
  readonly #text: string;
  readonly #limit: StepLimit;
  readonly #marks: Marks;
  readonly #looks = new Map<number, boolean>();

  constructor(program: Program, text: string, limit: StepLimit) {
    this.#program = program;
    this.#text = text;
    this.#limit = limit;
    this.#marks = new Marks(program.numMarks, limit);
  }

  exec(): Match | null | undefined {
    const text = this.#text;
    const pauseAt = this.#limit.left - STEPS_BETWEEN_PAUSES;
    this.#marks.forget(this.lastIndex);
    for (let start = this.lastIndex; start <= text.length; start += widthAt(text, start)) {
      const end = this.run(0, start);
      if (end >= 0) return { 0: text.slice(start, end), index: start };
      this.lastIndex = start + widthAt(text, start);
      if (this.#limit.left < pauseAt) return undefined;
    }
    return null;
  }

  /**
   * Matches from a place.
   * @param first - the first instruction
   * @param wantedEnd - the only end that counts; -1 for any
   * @returns the end of the match; -1 without one
   */
  run(first: number, start: number, wantedEnd = -1, marks: Marks = this.#marks): number {
    const { ops, x, y, sets } = this.#program;
    const [text, limit] = [this.#text, this.#limit];
    const others: number[] = []; // instructions and places, to go back to
    for (let [next, at] = [first, start]; ;) {
      limit.spend(1);
      const operand = x[next] ?? 0;
      let isMatching = false;
      switch (ops[next] ?? OP.accept) {
        case OP.character: {
          const code = text.codePointAt(at);
          isMatching = code !== undefined && sets[operand]?.has(code) === true;
          if (isMatching) at += code !== undefined && code > 0xffff ? 2 : 1;
          break;
        }
        case OP.split:
          if (others.push(y[next] ?? 0, at) > MAX_OTHERS) throw limit.problem("has too many ways to match");
          next = operand;
          continue;
        case OP.jump:
          next = operand;
          continue;
        case OP.mark:
          isMatching = marks.add(at, operand);
          break;
        case OP.place:
          isMatching = this.#isAt(this.#program.places[operand], at);
          break;
        case OP.look:
          isMatching = this.#looksAt(operand, at);
          break;
        default:
          if (wantedEnd < 0 || at === wantedEnd) return at;
      }
      if (isMatching) {
        next += 1;
        continue;
      }
      const back = others.pop();
      if (back === undefined) return -1;
      at = back;
      next = others.pop() ?? 0;
    }
  }

  #isAt(place: PatternPlace | undefined, at: number): boolean {
    if (place === "^") return at === 0;
    if (place === "$") return at === this.#text.length;
    const isInside = (index: number): boolean => WORD.test(this.#text[index] ?? " ");
    return (isInside(at - 1) !== isInside(at)) === (place === "\\b");
  }

  #looksAt(index: number, at: number): boolean {
    const look = this.#program.looks[index];
    if (look === undefined) return false;
    if (look.set) {
      const from = look.isBehind ? at - widthBefore(this.#text, at) : at;
      const code = from < at || !look.isBehind ? this.#text.codePointAt(from) : undefined;
      return (code !== undefined && look.set.has(code)) !== look.isNegated;
    }
    const key = at * this.#program.looks.length + index;
    const known = this.#looks.get(key) ?? this.#find(look, at);
    if (this.#looks.size >= MAX_KNOWN_LOOKS) this.#looks.clear();
    this.#looks.set(key, known);
    return known !== look.isNegated;
  }

  #find({ start, isBehind }: Look, at: number): boolean {
    const marks = new Marks(this.#program.numMarks, this.#limit);
    if (!isBehind) return this.run(start, at, -1, marks) >= 0;
    for (let from = at; from >= 0; from -= widthBefore(this.#text, from) || 1) {
      if (this.run(start, from, at, marks) >= 0) return true;
    }
    return false;
  }
}

/** Returns the number of UTF-16 units of the character at a place; 1 at the end. */
function widthAt(text: string, at: number): number {
  return (text.codePointAt(at) ?? 0) > 0xffff ? 2 : 1;
}

/** Returns the number of UTF-16 units of the character before a place; 0 at the start. */
function widthBefore(text: string, at: number): number {
  if (at < 2) return at;
  return (text.codePointAt(at - 2) ?? 0) > 0xffff ? 2 : 1;
}
