// The model of a tokenizer: turns words, which a pre-tokenizer has cut, into token ids by byte-pair encoding.

import type { JsonObject } from "../files/json-object.ts";
import { PairTable, type SymbolPair } from "./pair-table.ts";
import type { TokenIds } from "./token-ids.ts";
import type { Vocabulary } from "./vocabulary.ts";
import { WordCache } from "./word-cache.ts";
import { type MergeMemory, mergeMemory, WordMerge } from "./word-merge.ts";

/** Words of up to so many UTF-16 units are encoded in one go, longer ones with pauses. */
export const SHORT_WORD_LENGTH = 512;
const STEPS_BETWEEN_PAUSES = 2048;

const encoder = new TextEncoder();
const BYTE_TOKENS = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);

/** What a model has of its vocabulary, whichever tokens it leaves out. */
interface Parts {
  readonly ids: ReadonlyMap<string, number>;
  readonly aliases: ReadonlyMap<string, number>;
  readonly aliasIds: readonly number[];
  /** UTF-16 units of the longest spelling. */
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
 * A symbol is what a word is made of: the id of a token, an alias for a spelling whose id another spelling has, or
 * below 0 a character that the vocabulary lacks (`-1 - code point`).
 */
export class BpeModel {
  readonly #parts: Parts;
  readonly #table: PairTable;
  readonly #excluded: ReadonlySet<number>;
  readonly #cache = new WordCache();
  readonly #memory: MergeMemory = mergeMemory(SHORT_WORD_LENGTH);

  private constructor(parts: Parts, table: PairTable, excluded: ReadonlySet<number>) {
    [this.#parts, this.#table, this.#excluded] = [parts, table, excluded];
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
    const isInModel = typeof unknown === "string" && Object.hasOwn(model["vocab"] as JsonObject, unknown);
    const parts = {
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
    const pairs = merges.map(([left, right]): SymbolPair => [symbol(left), symbol(right), symbol(left + right)]);
    return new BpeModel(parts, new PairTable(pairs), new Set());
  }

  /** The same, but that no text becomes one of these tokens. */
  without(ids: ReadonlySet<number>): BpeModel {
    return new BpeModel(this.#parts, new PairTable(this.#table, ids), ids);
  }

  /** The bytes of UTF-8 that the longest token has that a text can become, as the vocabulary spells them. */
  static longestBytes(model: JsonObject, { merges, ids }: Vocabulary, bytesOf: (text: string) => number): number {
    let longest = 4; // a character
    for (const [left, right] of merges) longest = Math.max(longest, bytesOf(left + right));
    if (model["ignore_merges"] === true) for (const text of ids.keys()) longest = Math.max(longest, bytesOf(text));
    return longest;
  }

  /** Every character becomes a token or more, whatever the vocabulary lacks. */
  get coversAllCharacters(): boolean {
    if (this.#parts.byteSymbols?.every((symbol) => symbol >= 0)) return true;
    return this.#parts.unknown !== undefined && this.#parts.fusedId === undefined;
  }

  /** Adds the ids of a word of at most `SHORT_WORD_LENGTH`. */
  encodeShort(word: string, sink: TokenIds): void {
    const cached = this.#cache.get(word);
    if (cached !== undefined) {
      for (const symbol of cached) this.#emit(symbol, sink);
      return;
    }
    const symbols = this.#shortSymbols(word);
    this.#cache.add(word, symbols);
    for (const symbol of symbols) this.#emit(symbol, sink);
  }

  /** Adds the ids of a word of any length, given in parts, with pauses. */
  *encodeLong(parts: readonly string[], sink: TokenIds): Generator<void, void> {
    const length = parts.reduce((sum, part) => sum + part.length, 0);
    const whole = length <= this.#parts.longest ? this.#wholeWord(parts.join("")) : undefined;
    if (whole !== undefined) {
      this.#emit(whole, sink);
      return;
    }
    const memory = mergeMemory(length);
    let count = 0;
    for (const part of parts) {
      for (let at = 0; at < part.length; count++) {
        const codePoint = part.codePointAt(at) as number;
        memory.symbols[count] = this.#symbolOfCharacter(codePoint);
        at += codePoint > 0xffff ? 2 : 1;
        if (count % STEPS_BETWEEN_PAUSES === 0) yield;
      }
    }
    const merge = new WordMerge(this.#table, memory, count);
    while (!merge.run(STEPS_BETWEEN_PAUSES)) yield;
    const emit = (symbol: number): void => this.#emit(symbol, sink);
    for (let at = 0; at >= 0;) {
      at = merge.forEach(at, STEPS_BETWEEN_PAUSES, emit);
      yield;
    }
  }

  #shortSymbols(word: string): Int32Array {
    const whole = this.#wholeWord(word);
    if (whole !== undefined) return Int32Array.of(whole);
    let count = 0;
    for (let at = 0; at < word.length; count++) {
      const codePoint = word.codePointAt(at) as number;
      this.#memory.symbols[count] = this.#symbolOfCharacter(codePoint);
      at += codePoint > 0xffff ? 2 : 1;
    }
    const merge = new WordMerge(this.#table, this.#memory, count);
    merge.run(Infinity);
    const symbols: number[] = [];
    if (count > 0) merge.forEach(0, Infinity, (symbol) => symbols.push(symbol));
    return Int32Array.from(symbols);
  }

  /** The symbol of a word that is a token, where such words are not merged. */
  #wholeWord(word: string): number | undefined {
    const symbol = this.#parts.ignoresMerges ? this.#symbolOf(word) : undefined;
    return symbol !== undefined && this.#excluded.has(symbol) ? undefined : symbol;
  }

  #symbolOf(text: string): number | undefined {
    return this.#parts.aliases.get(text) ?? this.#parts.ids.get(text);
  }

  #symbolOfCharacter(codePoint: number): number {
    const symbol = this.#symbolOf(String.fromCodePoint(codePoint));
    const isLeftOut = symbol === undefined || (this.#excluded.has(symbol) && this.#parts.byteSymbols !== undefined);
    return isLeftOut ? -1 - codePoint : symbol;
  }

  #emit(symbol: number, sink: TokenIds): void {
    if (symbol >= 0) {
      this.#emitToken(symbol, sink);
      return;
    }
    const bytes = this.#parts.byteSymbols && encoder.encode(String.fromCodePoint(-1 - symbol));
    const symbols = bytes && Array.from(bytes, (byte) => this.#parts.byteSymbols?.[byte] ?? -1);
    if (symbols?.every((byteSymbol) => byteSymbol >= 0)) {
      for (const byteSymbol of symbols) this.#emitToken(byteSymbol, sink);
    } else if (this.#parts.unknown !== undefined) this.#emitToken(this.#parts.unknown, sink);
  }

  #emitToken(symbol: number, sink: TokenIds): void {
    const id =
      symbol < this.#parts.vocabSize ? symbol : (this.#parts.aliasIds[symbol - this.#parts.vocabSize] as number);
    // Neighbours that are both unknown are one token.
    const isFused = id === this.#parts.fusedId && sink.last === id;
    sink.last = id;
    if (!isFused) sink.push(this.#parts.overrides.get(symbol) ?? id);
  }
}
