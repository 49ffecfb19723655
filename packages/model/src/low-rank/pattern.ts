// Matches Python's regular expressions against names of modules, in time that is bounded whatever the expression is.

import { isWord, parsePattern, type PatternNode } from "./pattern-syntax.ts";

/** A set of places in a text: bit `at` stands for the place before character `at`. */
type Places = bigint;

/** A regular expression in Python's syntax. */
export class Pattern {
  readonly #root: PatternNode;
  readonly #numNodes: number;

  /** @throws {PatternError} when Python would refuse the expression, or when a part of it is not read here */
  constructor(text: string) {
    const { root, numNodes } = parsePattern(text);
    this.#root = root;
    this.#numNodes = numNodes;
  }

  /** Tells whether the whole text matches, as `re.fullmatch` does. */
  matches(text: string): boolean {
    return has(this.#matching(text).ends(this.#root, 0), text.length);
  }

  /** Tells whether a name, or what follows one of its dots, matches: `re.match(rf"(.*\.)?({pattern})$", name)`. */
  matchesSuffix(name: string): boolean {
    const matching = this.#matching(name);
    for (let start = 0; ; start = name.indexOf(".", start) + 1) {
      if (has(matching.ends(this.#root, start), name.length)) return true;
      if (!name.includes(".", start)) return false;
    }
  }

  #matching(text: string): Matching {
    return new Matching(text, this.#numNodes);
  }
}

function has(places: Places, at: number): boolean {
  return ((places >> BigInt(at)) & 1n) === 1n;
}

type Character = Extract<PatternNode, { readonly kind: "character" }>;
type Repeat = Extract<PatternNode, { readonly kind: "repeat" }>;

/** One text under one expression. Each node is matched at most once from each place. */
class Matching {
  readonly #text: string;
  readonly #numNodes: number;
  readonly #known = new Map<number, Places>();

  constructor(text: string, numNodes: number) {
    this.#text = text;
    this.#numNodes = numNodes;
  }

  /** Finds the places where a match of `node` that begins at `start` can end. */
  ends(node: PatternNode, start: number): Places {
    if (node.kind === "character") return this.#accepts(node, start) ? 2n << BigInt(start) : 0n;
    const key = start * this.#numNodes + node.id;
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    const ends = this.#find(node, start);
    this.#known.set(key, ends);
    return ends;
  }

  #find(node: Exclude<PatternNode, Character>, start: number): Places {
    if (node.kind === "sequence") return this.#sequence(node.parts, start);
    if (node.kind === "choice") return node.options.reduce((places, option) => places | this.ends(option, start), 0n);
    if (node.kind === "repeat") return this.#repeat(node, start);
    const here = 1n << BigInt(start);
    if (node.kind === "place") return this.#isAt(node.place, start) ? here : 0n;
    const isThere = node.isBehind
      ? Array.from({ length: start + 1 }, (_, from) => from).some((from) => has(this.ends(node.inner, from), start))
      : this.ends(node.inner, start) !== 0n;
    return isThere === node.isNegated ? 0n : here;
  }

  #sequence(parts: readonly PatternNode[], start: number): Places {
    let at = start;
    let next = 0;
    // Plain characters at the start decide most cases.
    for (let part = parts[next]; part?.kind === "character"; part = parts[++next]) {
      if (!this.#accepts(part, at)) return 0n;
      at += 1;
    }
    let places = 1n << BigInt(at);
    for (; next < parts.length && places !== 0n; next++) places = this.#from(places, parts[next]);
    return places;
  }

  #accepts({ accepts }: Character, at: number): boolean {
    const character = this.#text[at];
    return character !== undefined && accepts(character);
  }

  #from(places: Places, node: PatternNode | undefined): Places {
    if (node === undefined) return places;
    let ends = 0n;
    for (let at = 0, left = places; left !== 0n; at++, left >>= 1n) if (left & 1n) ends |= this.ends(node, at);
    return ends;
  }

  #repeat({ inner, least, most }: Repeat, start: number): Places {
    if (inner.kind === "character") return this.#repeatCharacter(inner, { least, most }, start);
    let places = 1n << BigInt(start);
    let ends = least === 0 ? places : 0n;
    // Matches only move ahead, so one time more than there are characters adds nothing further.
    const times = Math.min(most, this.#text.length + 2);
    for (let time = 1; time <= times; time++) {
      places = this.#from(places, inner);
      if (time >= Math.min(least, times)) ends |= places;
    }
    return ends;
  }

  /** Repeats a single character, the most frequent case: every end between the fewest and the most. */
  #repeatCharacter(inner: Character, { least, most }: Pick<Repeat, "least" | "most">, start: number): Places {
    const last = Math.min(start + most, this.#text.length);
    let end = start;
    while (end < last && this.#accepts(inner, end)) end += 1;
    const first = start + least;
    return end < first ? 0n : ((1n << BigInt(end - first + 1)) - 1n) << BigInt(first);
  }

  #isAt(place: "start" | "end" | "boundary" | "inside", at: number): boolean {
    if (place === "start") return at === 0;
    if (place === "end") return at === this.#text.length;
    const isInside = (index: number): boolean => isWord(this.#text[index] ?? " ");
    return (isInside(at - 1) !== isInside(at)) === (place === "boundary");
  }
}
