// The tokenizer of SentencePiece's unigram models (XLM-RoBERTa): the most probable pieces of a word, and the table of
// characters by which texts are normalized.

import { corrupt } from "../files/errors.ts";
import { isList, type JsonObject } from "../files/read-file.ts";
import { type TokenIds, WordCache } from "./bpe-model.ts";
import { finish, mapText } from "./pausing.ts";
import type { NormalizerStep } from "./pre-tokenizer.ts";
import type { PieceTable } from "./word-piece.ts";

/** Cost of an unknown character, below the least probable piece. */
const UNKNOWN_PENALTY = 10;
const CHARACTERS_BETWEEN_PAUSES = 2048;

/** Best path to a place of a word: its last piece, and the sum of its scores. */
interface Best {
  /** Beginning of the last piece, in UTF-16 units; -1 before any path. */
  from: number;
  id: number;
  score: number;
}

/**
 * Unigram model as the reference does it (`encode_optimized` of the crate `tokenizers`): the path of the largest sum of
 * scores; of equal ones, that of the shorter last piece.
 */
export class UnigramModel {
  readonly #pieces: PieceTable;
  readonly #scores: Float64Array;
  readonly #unknown: number;
  readonly #unknownScore: number;
  readonly #cache = new WordCache();

  /** @param model - `model` of a tokenizer.json */
  constructor(model: JsonObject, pieces: PieceTable) {
    const scored = isList(model["vocab"]) ? model["vocab"] : [];
    this.#scores = Float64Array.from(scored, (piece) => (isList(piece) ? Number(piece[1]) : 0));
    this.#pieces = pieces;
    this.#unknown = typeof model["unk_id"] === "number" ? model["unk_id"] : -1;
    this.#unknownScore = this.#scores.reduce((least, score) => Math.min(least, score), 0) - UNKNOWN_PENALTY;
  }

  /** Adds the ids of a word. */
  encodeShort(word: string, ids: TokenIds): void {
    let pieces = this.#cache.get(word);
    if (pieces === undefined) {
      pieces = finish(this.#piecesOf(word));
      this.#cache.add(word, pieces);
    }
    for (const id of pieces) ids.push(id);
  }

  /** Adds the ids of a word of any length, given in parts, with pauses. */
  *encodeLong(parts: readonly string[], ids: TokenIds): Generator<void, void> {
    const length = parts.reduce((sum, part) => sum + part.length, 0);
    ids.atLeast = ids.length + Math.floor(length / this.#pieces.longest);
    yield;
    for (const id of yield* this.#piecesOf(parts.join(""))) ids.push(id);
  }

  *#piecesOf(word: string): Generator<void, Int32Array> {
    const best: Best[] = Array.from({ length: word.length + 1 }, () => ({ from: -1, id: -1, score: 0 }));
    let count = 0;
    for (let start = 0; start < word.length;) {
      const width = (word.codePointAt(start) ?? 0) > 0xffff ? 2 : 1;
      this.#extend(word, start, width, best);
      start += width;
      if (++count % CHARACTERS_BETWEEN_PAUSES === 0) yield;
    }
    const ids: number[] = [];
    for (let end = word.length; end > 0;) {
      const { from, id } = best[end]!;
      const isFused = id === this.#unknown && ids.at(-1) === id;
      if (id >= 0 && !isFused) ids.push(id);
      end = from;
    }
    return Int32Array.from(ids.toReversed());
  }

  /** Offers every piece that begins at a character to the places where the pieces end. */
  #extend(word: string, start: number, width: number, best: readonly Best[]): void {
    const { score: before } = best[start]!;
    let isKnown = false;
    const last = Math.min(word.length, start + this.#pieces.longest);
    for (let end = start + width; end <= last; end++) {
      const text = word.slice(start, end);
      const id = this.#pieces.find(text);
      const score = this.#scores[id ?? -1];
      // Tokens that are added have no scores.
      if (id === undefined || score === undefined) continue;
      offer(best[end]!, { from: start, id: this.#pieces.encoded(text, id), score: before + score });
      if (end === start + width) isKnown = true;
    }
    if (isKnown) return;
    offer(best[start + width]!, { from: start, id: this.#unknown, score: before + this.#unknownScore });
  }
}

function offer(best: Best, path: Best): void {
  if (best.from === -1 || path.score > best.score) Object.assign(best, path);
}

// Normalization by SentencePiece's table: a double array of UTF-8 prefixes, and what they become.

/** Largest number of bytes of a cluster of characters that is looked up as a whole. */
const MOST_CLUSTER_BYTES = 5;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** @throws {ReadMeError} `ERR_FILE_CORRUPT` when the table is damaged */
export function precompiledStep(path: string, step: JsonObject): NormalizerStep {
  const { precompiled_charsmap: written } = step;
  const bytes = typeof written === "string" ? Buffer.from(written, "base64") : Buffer.alloc(0);
  const trieBytes = bytes.length < 4 ? -1 : bytes.readUInt32LE(0);
  if (trieBytes < 0 || trieBytes % 4 !== 0 || trieBytes + 4 > bytes.length) {
    throw corrupt(path, "`precompiled_charsmap` is no table of SentencePiece");
  }
  const trie = Uint32Array.from({ length: trieBytes / 4 }, (_, index) => bytes.readUInt32LE(4 + 4 * index));
  const table = new CharacterTable(trie, bytes.subarray(4 + trieBytes));
  return { apply: (text) => mapText(text, (chunk) => table.normalize(chunk)), grows: 18 };
}

class CharacterTable {
  readonly #trie: Uint32Array;
  readonly #results: Uint8Array;
  readonly #clusters = new Intl.Segmenter("en", { granularity: "grapheme" });
  /** Whether printable characters of ASCII stay as they are, which nearly all texts consist of. */
  readonly #keepsAscii: boolean;

  constructor(trie: Uint32Array, results: Uint8Array) {
    this.#trie = trie;
    this.#results = results;
    const printable = Array.from({ length: 95 }, (_, index) => String.fromCharCode(32 + index));
    this.#keepsAscii = printable.every((character) => this.#find(character) === undefined);
  }

  /** Replaces clusters of characters, and in others each character. */
  normalize(text: string): string {
    if (this.#keepsAscii && /^[ -~]*$/.test(text)) return text;
    let normalized = "";
    for (const { segment } of this.#clusters.segment(text)) {
      const isShort = Buffer.byteLength(segment) <= MOST_CLUSTER_BYTES;
      const whole = isShort ? this.#find(segment) : undefined;
      if (whole !== undefined) normalized += whole;
      else for (const character of segment) normalized += this.#find(character) ?? character;
    }
    return normalized;
  }

  /** Finds what the shortest known prefix of a text becomes. */
  #find(text: string): string | undefined {
    const unitAt = (at: number): number => this.#trie[at] ?? 0;
    let at = offsetOf(unitAt(0));
    for (const byte of encoder.encode(text)) {
      if (byte === 0) break;
      at ^= byte;
      const unit = unitAt(at);
      if ((unit & 0x8000_00ff) !== byte) return undefined;
      at ^= offsetOf(unit);
      if ((unit >>> 8) & 1) return this.#resultAt(unitAt(at) & 0x7fff_ffff);
    }
    return undefined;
  }

  #resultAt(from: number): string {
    const end = this.#results.indexOf(0, from);
    return decoder.decode(this.#results.subarray(from, end < 0 ? undefined : end));
  }
}

/** Distance to a unit's children, as the library Darts stores it. */
function offsetOf(unit: number): number {
  return (unit >>> 10) << ((unit & 0x200) >>> 6);
}
