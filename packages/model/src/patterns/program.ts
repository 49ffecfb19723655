// Compiles expressions for the matcher.

import { type Accepts, PatternError } from "./javascript-character.ts";
import type { LookNode, PatternNode, Place, RepeatNode } from "./syntax.ts";

/** Instructions. `x` and `y` are their operands. */
export const OP = {
  /** Takes a character of the set `x`. */
  character: 0,
  /** Goes on at `x`, and at `y` if that fails. */
  split: 1,
  jump: 2,
  /** Fails in a place where the mark `x` has been. */
  mark: 3,
  place: 4,
  look: 5,
  accept: 6,
} as const;

/** Text before or behind a place. */
export interface Look extends Omit<LookNode, "inner" | "kind"> {
  /** First instruction. */
  readonly start: number;
  /** The set, when the text is a single character. */
  readonly set: CharacterSet | undefined;
}

export interface Program {
  readonly ops: readonly number[];
  readonly x: readonly number[];
  readonly y: readonly number[];
  readonly sets: readonly CharacterSet[];
  readonly places: readonly Place[];
  readonly looks: readonly Look[];
  readonly numMarks: number;
}

/** Characters below this one are asked for once. */
const KNOWN = 0x3000;

/** A set of characters. */
class CharacterSet {
  readonly #accepts: Accepts;
  readonly #known: (boolean | undefined)[] = [];

  constructor(accepts: Accepts) {
    this.#accepts = accepts;
  }

  has(code: number): boolean {
    if (code >= KNOWN) return this.#accepts(String.fromCodePoint(code));
    return (this.#known[code] ??= this.#accepts(String.fromCodePoint(code)));
  }
}

/** @throws {PatternError} when the program has more than `maxLength` instructions */
export function compile(root: PatternNode, maxLength: number): Program {
  return new Compiler(maxLength).program(root);
}

class Compiler implements Program {
  readonly ops: number[] = [];
  readonly x: number[] = [];
  readonly y: number[] = [];
  readonly sets: CharacterSet[] = [];
  readonly places: Place[] = [];
  readonly looks: Look[] = [];
  numMarks = 0;
  readonly #maxLength: number;
  readonly #setOf = new Map<PatternNode, number>(); // copies of a repetition share it

  constructor(maxLength: number) {
    this.#maxLength = maxLength;
  }

  program(root: PatternNode): Program {
    this.#node(root);
    this.#add(OP.accept);
    return this;
  }

  #add(op: number, x = 0, y = 0): number {
    if (this.ops.length === this.#maxLength) throw new PatternError(`is larger than ${this.#maxLength} parts`);
    this.x.push(x);
    this.y.push(y);
    return this.ops.push(op) - 1;
  }

  get #next(): number {
    return this.ops.length;
  }

  #mark(): number {
    return this.#add(OP.mark, this.numMarks++);
  }

  #node(node: PatternNode): void {
    switch (node.kind) {
      case "character":
        return void this.#add(OP.character, this.#set(node, node.accepts));
      case "sequence":
        for (const part of node.parts) this.#node(part);
        return;
      case "choice":
        return this.#choice(node.options);
      case "repeat":
        return this.#repeat(node);
      case "place":
        return void this.#add(OP.place, this.places.push(node.place) - 1);
      case "look":
        return this.#look(node);
    }
  }

  #set(node: PatternNode, accepts: Accepts): number {
    const known = this.#setOf.get(node) ?? this.sets.push(new CharacterSet(accepts)) - 1;
    this.#setOf.set(node, known);
    return known;
  }

  #choice(options: readonly PatternNode[]): void {
    const ends: number[] = [];
    for (const [index, option] of options.entries()) {
      const split = index + 1 < options.length ? this.#add(OP.split, this.#next + 1) : undefined;
      this.#node(option);
      if (split === undefined) continue;
      ends.push(this.#add(OP.jump));
      this.y[split] = this.#next;
    }
    for (const end of ends) this.x[end] = this.#next;
    this.#mark();
  }

  #repeat({ inner, least, most, isLazy }: RepeatNode): void {
    for (let time = 0; time < least; time++) this.#node(inner);
    if (most === Infinity) {
      const loop = this.#mark();
      const split = this.#split();
      this.#node(inner);
      this.#add(OP.jump, loop);
      this.#leave(split, isLazy);
      return;
    }
    const splits: number[] = [];
    for (let time = least; time < most; time++) {
      splits.push(this.#split());
      this.#node(inner);
    }
    for (const split of splits) this.#leave(split, isLazy);
    if (splits.length > 0) this.#mark();
  }

  #split(): number {
    return this.#add(OP.split, this.#next + 1);
  }

  /** Leads a split past what follows it to here. */
  #leave(split: number, isLazy: boolean): void {
    this.y[split] = this.#next;
    if (isLazy) [this.x[split], this.y[split]] = [this.#next, split + 1];
  }

  #look({ inner, isBehind, isNegated }: LookNode): void {
    const only = inner.kind === "sequence" && inner.parts.length === 1 ? inner.parts[0] : inner;
    const set = only?.kind === "character" ? this.sets[this.#set(only, only.accepts)] : undefined;
    const index = this.looks.push({ start: this.#next + 2, set, isBehind, isNegated }) - 1;
    this.#add(OP.look, index);
    const jump = this.#add(OP.jump);
    this.#node(inner);
    this.#add(OP.accept);
    this.x[jump] = this.#next;
  }
}
