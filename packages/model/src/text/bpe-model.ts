// Encodes the words of a pre-tokenizer into token ids by byte-pair encoding (BPE).

import { isJsonObject, type JsonObject } from "../files/text-file.ts";
import type { Vocabulary } from "./vocabulary.ts";
import { type MergeMemory, mergeMemory, PairTable, type SymbolPair, WordMerge } from "./word-merge.ts";

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
    let longest = 0;
    for (const [text, id] of ids) {
      longest = Math.max(longest, text.length);
      if (texts[id] === text) continue;
      aliases.set(text, texts.length + aliasIds.length);
      aliasIds.push(id);
    }
    const symbol = (text: string): number => aliases.get(text) ?? ids.get(text) ?? -1;
    const { unk_token: unknown } = model;
    // As in the library: an unknown token that only `added_tokens` has is not fused.
    const isInModel =
      typeof unknown === "string" && isJsonObject(model["vocab"]) && Object.hasOwn(model["vocab"], unknown);
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

  /** Returns the length in UTF-8 bytes of the longest token that a text can become, as the vocabulary spells it. */
  static longestBytes(model: JsonObject, { merges, ids }: Vocabulary, bytesOf: (text: string) => number): number {
    let longest = 4; // one character
    for (const [, , merged] of merges) longest = Math.max(longest, bytesOf(merged));
    if (model["ignore_merges"] === true) for (const text of ids.keys()) longest = Math.max(longest, bytesOf(text));
    return longest;
  }

  /** Whether every character becomes one token or more, also those that the vocabulary lacks. */
  get coversAllCharacters(): boolean {
    if (this.#tables.byteSymbols?.every((symbol) => symbol >= 0)) return true;
    return this.#tables.unknown !== undefined && this.#tables.fusedId === undefined;
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
    for (const part of parts) {
      for (const character of part) {
        memory.symbols[count] = this.#symbolOfCharacter(character);
        if (count++ % STEPS_BETWEEN_PAUSES === 0) yield;
      }
    }
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
class WordCache {
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
