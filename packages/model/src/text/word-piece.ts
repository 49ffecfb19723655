// The tokenizer of BERT: WordPiece, which encodes words into token ids, and the steps in front of it.

import type { JsonObject } from "../files/read-file.ts";
import { type TokenIds, WordCache } from "./bpe-model.ts";
import { mapText, normalizeInChunks } from "./pausing.ts";
import type { NormalizerStep, PreTokenizerStep } from "./pre-tokenizer.ts";
import type { Vocabulary } from "./vocabulary.ts";

/** Mark of pieces that continue a word. */
export const CONTINUING = "##";
const MOST_CHARACTERS = 100;

/** Pieces of words that texts are encoded as. */
export class PieceTable {
  /** Length of the longest spelling, in UTF-16 units, so that a word takes linear time. */
  readonly longest: number;
  readonly #ids: ReadonlyMap<string, number>;
  readonly #overrides: ReadonlyMap<string, number>;
  readonly #excluded: ReadonlySet<number>;

  /**
   * @param overrides - by spelling, ids that a token has instead of its own
   * @param excluded - ids of tokens that no text is encoded as
   */
  constructor({ ids }: Vocabulary, overrides: ReadonlyMap<string, number>, excluded: ReadonlySet<number>) {
    [this.#ids, this.#overrides, this.#excluded] = [ids, overrides, excluded];
    let longest = 1;
    for (const text of ids.keys()) longest = Math.max(longest, text.length);
    this.longest = longest;
  }

  /** Finds the id of a piece in the model. */
  find(text: string): number | undefined {
    const id = this.#ids.get(text);
    return id === undefined || this.#excluded.has(id) ? undefined : id;
  }

  /** Finds the id that a known piece is encoded as. */
  encoded(text: string, id: number): number {
    return this.#overrides.get(text) ?? id;
  }
}

/** WordPiece as the reference does it: the longest known piece first; a word with an unknown rest is unknown. */
export class WordPieceModel {
  readonly #pieces: PieceTable;
  readonly #prefix: string;
  readonly #unknown: Int32Array;
  readonly #mostCharacters: number;
  readonly #cache = new WordCache();

  /** @param model - `model` of a tokenizer.json */
  constructor(model: JsonObject, pieces: PieceTable, { ids }: Vocabulary) {
    const { unk_token: unknown, continuing_subword_prefix: prefix, max_input_chars_per_word: most } = model;
    this.#pieces = pieces;
    this.#prefix = typeof prefix === "string" ? prefix : CONTINUING;
    this.#mostCharacters = typeof most === "number" ? most : MOST_CHARACTERS;
    this.#unknown = Int32Array.of((typeof unknown === "string" ? ids.get(unknown) : undefined) ?? 0);
  }

  /** Adds the ids of a word. */
  encodeShort(word: string, ids: TokenIds): void {
    let pieces = this.#cache.get(word);
    if (pieces === undefined) {
      pieces = this.#piecesOf(word);
      this.#cache.add(word, pieces);
    }
    for (const id of pieces) ids.push(id);
  }

  /** Adds the ids of a word of any length, given in parts. */
  *encodeLong(parts: readonly string[], ids: TokenIds): Generator<void, void> {
    // A character has one or two units.
    const length = parts.reduce((sum, part) => sum + part.length, 0);
    if (length <= 2 * this.#mostCharacters) this.encodeShort(parts.join(""), ids);
    else for (const id of this.#unknown) ids.push(id);
    yield;
  }

  #piecesOf(word: string): Int32Array {
    if (Array.from(word).length > this.#mostCharacters) return this.#unknown;
    const pieces: number[] = [];
    for (let start = 0; start < word.length;) {
      let end = Math.min(word.length, start + this.#pieces.longest);
      let id: number | undefined;
      for (; end > start; end--) {
        const text = (start > 0 ? this.#prefix : "") + word.slice(start, end);
        const own = this.#pieces.find(text);
        if (own === undefined) continue;
        id = this.#pieces.encoded(text, own);
        break;
      }
      if (id === undefined) return this.#unknown;
      pieces.push(id);
      start = end;
    }
    return Int32Array.from(pieces);
  }
}

// Normalizer and pre-tokenizer, as the reference (the Rust crate `tokenizers`) has them.

/** Characters that are removed: controls, and what stands for no character. */
const REMOVED = /(?![\t\n\r])[\0\ufffd\p{Cc}\p{Cf}\p{Co}\p{Cs}]/gu;
const SPACES = /\p{White_Space}/gu;
/** Ideographs of Chinese, each of which is a word. */
const IDEOGRAPHS =
  /[\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\u{f900}-\u{faff}\u{2f800}-\u{2fa1f}]/gu;
const ACCENTS = /\p{Mn}/gu;
/** A character of punctuation, or a word between spaces and punctuation. */
const WORDS = /[!-/:-@[-`{-~\p{P}]|[^\p{White_Space}!-/:-@[-`{-~\p{P}]+/gu;

/** Lists the steps of a `BertNormalizer`, in the order of the reference. */
export function bertNormalizer(step: JsonObject): readonly NormalizerStep[] {
  const { clean_text: cleans = true, handle_chinese_chars: spaces = true, lowercase = true } = step;
  const strips = step["strip_accents"] ?? lowercase;
  const steps: NormalizerStep[] = [];
  if (cleans === true) {
    steps.push(mapping((text) => text.replaceAll(REMOVED, "").replaceAll(SPACES, " "), 1));
  }
  if (spaces === true) steps.push(mapping((text) => text.replaceAll(IDEOGRAPHS, " $& "), 3));
  if (strips === true) steps.push({ apply: withoutAccents, grows: 4 });
  if (lowercase === true) steps.push(lowercaseStep());
  return steps;
}

/** Lowers each character by itself, as the reference does, so that a last sigma is one as any other. */
export function lowercaseStep(): NormalizerStep {
  return mapping((text) => text.replaceAll("Σ", "σ").toLowerCase(), 3);
}

/** Cuts a text at spaces, which are dropped, and around each character of punctuation. */
export function bertPreTokenizer(): PreTokenizerStep {
  return { type: "split", pattern: WORDS, dropsRest: true, endsPieces: false };
}

function mapping(map: (text: string) => string, grows: number): NormalizerStep {
  return { apply: (text) => mapText(text, map), grows };
}

function* withoutAccents(text: string): Generator<void, string> {
  const decomposed = yield* normalizeInChunks(text, "NFD");
  return yield* mapText(decomposed, (chunk) => chunk.replaceAll(ACCENTS, ""));
}
