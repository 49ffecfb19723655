// Compiles expressions for the matcher.

import {
  PatternError,
  type PatternLook,
  type PatternNode,
  type PatternPlace,
  type PatternRepeat,
} from "@readme-moe/core";

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
export interface Look extends Omit<PatternLook, "inner" | "kind"> {
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
  readonly places: readonly PatternPlace[];
  readonly looks: readonly Look[];
  readonly numMarks: number;
}

/** Characters below this one are asked for once. */
const KNOWN = 0x3000;

/** A set of characters. JavaScript decides what it contains: a single character takes no time worth mentioning. */
class CharacterSet {
  readonly #pattern: RegExp;
  readonly #known: (boolean | undefined)[] = [];

  /** @throws {PatternError} when JavaScript does not read it */
  constructor(source: string) {
    try {
      this.#pattern = new RegExp(`^(?:${source})$`, "su");
    } catch (cause) {
      throw new PatternError(`\`${source}\``, { cause });
    }
  }

  has(code: number): boolean {
    if (code >= KNOWN) return this.#pattern.test(String.fromCodePoint(code));
    return (this.#known[code] ??= this.#pattern.test(String.fromCodePoint(code)));
  }
}

export interface CompileOptions {
  /** Largest number of instructions. */
  readonly maxLength: number;
  /** Whether places may be named. */
  readonly hasPlaces: boolean;
}

/** @throws {PatternError} when the program is too large, or has a part that is not read */
export function compile(root: PatternNode, options: CompileOptions): Program {
  return new Compiler(options).program(root);
}

class Compiler implements Program {
  readonly ops: number[] = [];
  readonly x: number[] = [];
  readonly y: number[] = [];
  readonly sets: CharacterSet[] = [];
  readonly places: PatternPlace[] = [];
  readonly looks: Look[] = [];
  numMarks = 0;
  readonly #options: CompileOptions;
  readonly #setOf = new Map<string, number>(); // by how it is written

  constructor(options: CompileOptions) {
    this.#options = options;
  }

  program(root: PatternNode): Program {
    this.#node(root);
    this.#add(OP.accept);
    return this;
  }

  #add(op: number, x = 0, y = 0): number {
    const { maxLength } = this.#options;
    if (this.ops.length === maxLength) throw new PatternError(`more than ${maxLength} parts`);
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
        return void this.#add(OP.character, this.#set(node.source));
      case "sequence":
        for (const part of node.parts) this.#node(part);
        return;
      case "choice":
        return this.#choice(node.options);
      case "repeat":
        return this.#repeat(node);
      case "place":
        if (!this.#options.hasPlaces) throw new PatternError(`\`${node.place}\``);
        return void this.#add(OP.place, this.places.push(node.place) - 1);
      case "look":
        return this.#look(node);
    }
  }

  #set(source: string): number {
    const known = this.#setOf.get(source);
    if (known !== undefined) return known;
    const added = this.sets.push(new CharacterSet(source)) - 1;
    this.#setOf.set(source, added);
    return added;
  }

  #choice(options: readonly PatternNode[]): void {
    const [only] = options;
    if (only && options.length === 1) return this.#node(only);
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

  #repeat({ inner, least, most, isLazy }: PatternRepeat): void {
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

  #look({ inner, isBehind, isNegated }: PatternLook): void {
    const only = onlyPart(inner);
    const set = only?.kind === "character" ? this.sets[this.#set(only.source)] : undefined;
    const index = this.looks.push({ start: this.#next + 2, set, isBehind, isNegated }) - 1;
    this.#add(OP.look, index);
    const jump = this.#add(OP.jump);
    this.#node(inner);
    this.#add(OP.accept);
    this.x[jump] = this.#next;
  }
}

/** Returns the only part of an expression that has one. */
function onlyPart(node: PatternNode): PatternNode {
  const parts = node.kind === "choice" ? node.options : node.kind === "sequence" ? node.parts : [];
  const [only] = parts;
  return only && parts.length === 1 ? onlyPart(only) : node;
}
