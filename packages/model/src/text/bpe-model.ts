// Encodes the words of a pre-tokenizer into token ids by byte-pair encoding (BPE).

import { isRecord } from "@readme-moe/core";
import type { JsonObject } from "../files/read-file.ts";
import type { Vocabulary } from "./vocabulary.ts";

/** Longest word, in UTF-16 units, that is encoded in one go; longer ones are encoded with pauses. */
export const SHORT_WORD_LENGTH = 512;
const STEPS_BETWEEN_PAUSES = 2048;
const MAX_CACHED_WORDS = 8192;
// Words of real texts are short; a hostile text must not fill the memory with long ones.
const MAX_CACHED_LENGTH = 64;

const encoder = new TextEncoder();
const BYTE_TOKENS = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);

/** A growing list of token ids. */
export class TokenIds {
  /** Last id of this stretch of text, -1 at its beginning; unknown neighbours become one token. */
  last = -1;
  /** Lower bound of the length that the list will have. */
  atLeast = 0;
  #ids = new Int32Array(64);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  push(id: number): void {
    if (this.#length === this.#ids.length) {
      const grown = new Int32Array(2 * this.#length);
      grown.set(this.#ids);
      this.#ids = grown;
    }
    this.#ids[this.#length++] = id;
  }

  toArray(): Int32Array {
    return this.#ids.slice(0, this.#length);
  }
}

export function joinIds(lists: readonly ArrayLike<number>[]): Int32Array {
  const all = new Int32Array(lists.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const list of lists) {
    all.set(list, at);
    at += list.length;
  }
  return all;
}

/** Tables of a vocabulary, which all variants of its model share. */
interface Tables {
  readonly ids: ReadonlyMap<string, number>;
  readonly aliases: ReadonlyMap<string, number>;
  readonly aliasIds: readonly number[];
  /** Length of the longest spelling, in UTF-16 units. */
  readonly longest: number;
  readonly vocabSize: number;
  readonly ignoresMerges: boolean;
  readonly fusedId: number | undefined;
  readonly unknown: number | undefined;
  readonly byteSymbols: readonly number[] | undefined; // [256], -1 for a byte without a token
  readonly overrides: ReadonlyMap<number, number>;
}

/**
 * Byte-pair encoding as the library @huggingface/tokenizers does it.
 *
 * A word is made of symbols. A symbol is the id of a token, an alias for a spelling whose id another spelling has, or
 * below 0 a character that the vocabulary lacks (`-1 - code point`).
 */
export class BpeModel {
  readonly #tables: Tables;
  readonly #merges: PairTable;
  readonly #excluded: ReadonlySet<number>;
  readonly #cache = new WordCache();
  readonly #memory: MergeMemory = mergeMemory(SHORT_WORD_LENGTH);

  private constructor(tables: Tables, merges: PairTable, excluded: ReadonlySet<number>) {
    [this.#tables, this.#merges, this.#excluded] = [tables, merges, excluded];
  }

  /**
   * @param model - `model` of a tokenizer.json
   * @param overrides - by spelling, ids that a token has instead of its own
   */
  static of(model: JsonObject, vocabulary: Vocabulary, overrides: ReadonlyMap<string, number>): BpeModel {
    const { ids, texts, merges } = vocabulary;
    const aliases = new Map<string, number>();
    const aliasIds: number[] = [];
    let longest = 1;
    for (const [text, id] of ids) {
      longest = Math.max(longest, text.length);
      if (texts[id] === text) continue;
      aliases.set(text, texts.length + aliasIds.length);
      aliasIds.push(id);
    }
    const symbol = (text: string): number => aliases.get(text) ?? ids.get(text) ?? -1;
    const { unk_token: unknown } = model;
    // As in the library: an unknown token that only `added_tokens` has is not fused.
    const isInModel = typeof unknown === "string" && isRecord(model["vocab"]) && Object.hasOwn(model["vocab"], unknown);
    const tables = {
      ids,
      aliases,
      aliasIds,
      longest,
      vocabSize: texts.length,
      ignoresMerges: model["ignore_merges"] === true,
      fusedId: isInModel && model["fuse_unk"] === true ? ids.get(unknown) : undefined,
      unknown: typeof unknown === "string" && ids.has(unknown) ? symbol(unknown) : undefined,
      byteSymbols: model["byte_fallback"] === true ? BYTE_TOKENS.map(symbol) : undefined,
      overrides: new Map([...overrides].map(([text, id]) => [symbol(text), id])),
    };
    const pairs = merges.map(([left, right, merged]): SymbolPair => [symbol(left), symbol(right), symbol(merged)]);
    return new BpeModel(tables, new PairTable(pairs), new Set());
  }

  /** Makes a variant that encodes no text as one of these tokens. */
  without(ids: ReadonlySet<number>): BpeModel {
    return new BpeModel(this.#tables, new PairTable(this.#merges, ids), ids);
  }

  /** Adds the ids of a word of at most `SHORT_WORD_LENGTH`. */
  encodeShort(word: string, ids: TokenIds): void {
    let symbols = this.#cache.get(word);
    if (symbols === undefined) {
      symbols = this.#shortSymbols(word);
      this.#cache.add(word, symbols);
    }
    for (const symbol of symbols) this.#emit(symbol, ids);
  }

  /** Adds the ids of a word of any length, given in parts, with pauses. */
  *encodeLong(parts: readonly string[], ids: TokenIds): Generator<void, void> {
    const length = parts.reduce((sum, part) => sum + part.length, 0);
    const whole = length <= this.#tables.longest ? this.#wholeWord(parts.join("")) : undefined;
    if (whole !== undefined) {
      this.#emit(whole, ids);
      return;
    }
    const memory = mergeMemory(length);
    let count = 0;
    let numKnown = 0;
    for (const part of parts) {
      for (const character of part) {
        const symbol = this.#symbolOfCharacter(character);
        memory.symbols[count] = symbol;
        if (symbol >= 0 && symbol !== this.#tables.fusedId) numKnown++;
        if (count++ % STEPS_BETWEEN_PAUSES === 0) yield;
      }
    }
    // A word that cannot fit is refused before it is merged.
    ids.atLeast = ids.length + Math.floor(numKnown / this.#tables.longest);
    yield;
    const merge = new WordMerge(this.#merges, memory, count);
    while (!merge.run(STEPS_BETWEEN_PAUSES)) yield;
    const emit = (symbol: number): void => this.#emit(symbol, ids);
    for (let at = 0; at >= 0;) {
      at = merge.forEach(at, STEPS_BETWEEN_PAUSES, emit);
      yield;
    }
  }

  #shortSymbols(word: string): Int32Array {
    const whole = this.#wholeWord(word);
    if (whole !== undefined) return Int32Array.of(whole);
    let count = 0;
    for (const character of word) this.#memory.symbols[count++] = this.#symbolOfCharacter(character);
    const merge = new WordMerge(this.#merges, this.#memory, count);
    merge.run(Infinity);
    const symbols: number[] = [];
    if (count > 0) merge.forEach(0, Infinity, (symbol) => symbols.push(symbol));
    return Int32Array.from(symbols);
  }

  /** Returns the symbol of a word that is a token, in a model that does not merge such words. */
  #wholeWord(word: string): number | undefined {
    const symbol = this.#tables.ignoresMerges ? this.#symbolOf(word) : undefined;
    return symbol !== undefined && this.#excluded.has(symbol) ? undefined : symbol;
  }

  #symbolOf(text: string): number | undefined {
    return this.#tables.aliases.get(text) ?? this.#tables.ids.get(text);
  }

  #symbolOfCharacter(character: string): number {
    const symbol = this.#symbolOf(character);
    const isLeftOut = symbol === undefined || (this.#excluded.has(symbol) && this.#tables.byteSymbols !== undefined);
    return isLeftOut ? -1 - (character.codePointAt(0) ?? 0) : symbol;
  }

  #emit(symbol: number, ids: TokenIds): void {
    if (symbol >= 0) {
      this.#emitToken(symbol, ids);
      return;
    }
    const bytes = this.#tables.byteSymbols && encoder.encode(String.fromCodePoint(-1 - symbol));
    const symbols = bytes && Array.from(bytes, (byte) => this.#tables.byteSymbols?.[byte] ?? -1);
    if (symbols?.every((byteSymbol) => byteSymbol >= 0)) {
      for (const byteSymbol of symbols) this.#emitToken(byteSymbol, ids);
    } else if (this.#tables.unknown !== undefined) this.#emitToken(this.#tables.unknown, ids);
  }

  #emitToken(symbol: number, ids: TokenIds): void {
    const { vocabSize, aliasIds } = this.#tables;
    const id = symbol < vocabSize ? symbol : (aliasIds[symbol - vocabSize] ?? symbol);
    // Unknown neighbours become one token.
    const isFused = id === this.#tables.fusedId && ids.last === id;
    ids.last = id;
    if (!isFused) ids.push(this.#tables.overrides.get(symbol) ?? id);
  }
}

/** Symbols of recent words: at most two times `MAX_CACHED_WORDS` of them. */
export class WordCache {
  #recent = new Map<string, Int32Array>();
  #older = new Map<string, Int32Array>();

  get(word: string): Int32Array | undefined {
    const symbols = this.#recent.get(word);
    if (symbols !== undefined) return symbols;
    const older = this.#older.get(word);
    if (older !== undefined) this.#put(word, older);
    return older;
  }

  add(word: string, symbols: Int32Array): void {
    // A part of a string keeps the whole string in memory, so the cache stores a copy.
    if (word.length <= MAX_CACHED_LENGTH) this.#put(Buffer.from(word, "utf16le").toString("utf16le"), symbols);
  }

  #put(word: string, symbols: Int32Array): void {
    if (this.#recent.size >= MAX_CACHED_WORDS) [this.#older, this.#recent] = [this.#recent, new Map()];
    this.#recent.set(word, symbols);
  }
}

// Merges the symbols of one word by byte-pair encoding.

/** Two symbols that merge, and the symbol that they make. */
export type SymbolPair = readonly [left: number, right: number, merged: number];

// Symbols are token ids and a few aliases, all below this limit.
const SYMBOL_LIMIT = 2 ** 26;
// Positions in a word are below this limit (a string has fewer than 2 ** 29 characters), ranks below 2 ** 24.
const POSITION_LIMIT = 2 ** 29;

/** The merges of a BPE model by pair; the rank of a merge is its place in the list. */
export class PairTable {
  // An open hash table, since a map of boxed numbers takes five times the memory.
  readonly #keys: Float64Array;
  readonly #ranks: Int32Array;
  readonly #merged: Int32Array;
  readonly #mask: number;
  readonly #excluded: ReadonlySet<number>;

  /**
   * @param pairs - the pairs by rank, of which the last counts when one occurs twice; or a table to share memory with
   * @param excluded - symbols that nothing merges into
   */
  constructor(pairs: readonly SymbolPair[] | PairTable, excluded: ReadonlySet<number> = new Set()) {
    this.#excluded = excluded;
    if (pairs instanceof PairTable) {
      [this.#keys, this.#ranks, this.#merged, this.#mask] = [pairs.#keys, pairs.#ranks, pairs.#merged, pairs.#mask];
      return;
    }
    const capacity = 2 ** Math.ceil(Math.log2(2 * pairs.length + 2));
    this.#mask = capacity - 1;
    this.#keys = new Float64Array(capacity).fill(-1);
    this.#ranks = new Int32Array(capacity);
    this.#merged = Int32Array.from(pairs, ([, , merged]) => merged);
    for (const [rank, [left, right]] of pairs.entries()) {
      const slot = this.#slot(left, right);
      this.#keys[slot] = left * SYMBOL_LIMIT + right;
      this.#ranks[slot] = rank;
    }
  }

  /** Returns the rank of two symbols, -1 when they do not merge; symbols below 0 never do. */
  rank(left: number, right: number): number {
    if (left < 0 || right < 0) return -1;
    const slot = this.#slot(left, right);
    const rank = this.#keys[slot] === -1 ? -1 : (this.#ranks[slot] ?? -1);
    return this.#excluded.size > 0 && rank >= 0 && this.#excluded.has(this.mergedAt(rank)) ? -1 : rank;
  }

  mergedAt(rank: number): number {
    return this.#merged[rank] ?? -1;
  }

  /** Returns the place of a pair, or the free place where it would be. */
  #slot(left: number, right: number): number {
    const key = left * SYMBOL_LIMIT + right;
    let hash = Math.imul(left, 0x9e37_79b1) ^ Math.imul(right, 0x85eb_ca6b);
    hash ^= hash >>> 15;
    let slot = hash & this.#mask;
    while (this.#keys[slot] !== key && this.#keys[slot] !== -1) slot = (slot + 1) & this.#mask;
    return slot;
  }
}

/** Memory for merging words of up to a number of symbols. */
interface MergeMemory {
  readonly symbols: Int32Array;
  readonly next: Int32Array;
  readonly previous: Int32Array;
  /** Heap of the pairs that may merge: rank * POSITION_LIMIT + position of the left symbol. */
  readonly heap: Float64Array;
}

export function mergeMemory(numSymbols: number): MergeMemory {
  const array = (): Int32Array => new Int32Array(numSymbols);
  // A merge takes one pair and offers two; the system gives the memory when it is first written.
  return { symbols: array(), next: array(), previous: array(), heap: new Float64Array(2 * numSymbols) };
}

/**
 * Byte-pair encoding of one word, which can pause. Merges the pair of the lowest rank, and the leftmost of equal
 * ranks, until none is left. Takes O(n log n) for a word of n symbols.
 */
export class WordMerge {
  readonly #table: PairTable;
  readonly #symbols: Int32Array;
  readonly #next: Int32Array; // -1 at the end; -2 for a symbol that was merged into the one before
  readonly #previous: Int32Array;
  readonly #numSymbols: number;
  readonly #heap: Float64Array;
  #heapSize = 0;
  #numLinked = 0;

  /** @param memory - holds the word's symbols; used by this merge alone until it is done */
  constructor(table: PairTable, memory: MergeMemory, numSymbols: number) {
    this.#table = table;
    this.#symbols = memory.symbols;
    this.#next = memory.next;
    this.#previous = memory.previous;
    this.#heap = memory.heap;
    this.#numSymbols = numSymbols;
  }

  /**
   * Merges for a number of steps, each of which looks at one symbol or one pair.
   * @returns whether the word is merged
   */
  run(maxSteps: number): boolean {
    let steps = 0;
    for (; this.#numLinked < this.#numSymbols; steps++) {
      if (steps === maxSteps) return false;
      const at = this.#numLinked++;
      this.#previous[at] = at - 1;
      this.#next[at] = this.#numLinked < this.#numSymbols ? this.#numLinked : -1;
      this.#offer(at);
    }
    for (; this.#heapSize > 0; steps++) {
      if (steps === maxSteps) return false;
      const key = this.#pop();
      const at = key % POSITION_LIMIT;
      const rank = (key - at) / POSITION_LIMIT;
      // An entry whose pair has changed since is out of date.
      if (this.#rankAt(at) === rank) this.#merge(at, rank);
    }
    return true;
  }

  /** Passes at most `maxSymbols` symbols from `from` on to `callback`. @returns where to continue, -1 at the end */
  forEach(from: number, maxSymbols: number, callback: (symbol: number) => void): number {
    let at = from;
    for (let count = 0; at >= 0 && count < maxSymbols; count++) {
      callback(this.#symbols[at] ?? -1);
      at = this.#next[at] ?? -1;
    }
    return at;
  }

  #merge(at: number, rank: number): void {
    const right = this.#next[at] ?? -1;
    const after = this.#next[right] ?? -1;
    this.#symbols[at] = this.#table.mergedAt(rank);
    this.#next[at] = after;
    this.#next[right] = -2;
    if (after >= 0) this.#previous[after] = at;
    const before = this.#previous[at] ?? -1;
    if (before >= 0) this.#offer(before);
    this.#offer(at);
  }

  #rankAt(at: number): number {
    const right = this.#next[at] ?? -1;
    return right < 0 ? -1 : this.#table.rank(this.#symbols[at] ?? -1, this.#symbols[right] ?? -1);
  }

  #offer(at: number): void {
    const rank = this.#rankAt(at);
    if (rank >= 0) this.#push(rank * POSITION_LIMIT + at);
  }

  #push(key: number): void {
    const heap = this.#heap;
    let at = this.#heapSize++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = heap[parent] ?? 0;
      if (above <= key) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = key;
  }

  #pop(): number {
    const heap = this.#heap;
    const top = heap[0] ?? 0;
    const length = --this.#heapSize;
    const last = heap[length] ?? 0;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= length) break;
      if (child + 1 < length && (heap[child + 1] ?? 0) < (heap[child] ?? 0)) child++;
      const least = heap[child] ?? 0;
      if (least >= last) break;
      heap[at] = least;
      at = child;
    }
    heap[at] = last;
    return top;
  }
}
