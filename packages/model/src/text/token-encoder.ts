// Turns a text into the ids of its tokens, with pauses: the steps that a tokenizer.json describes, one after another.

import { ReadMeError } from "@readme-moe/core";
import { expectObject, isList, type JsonObject } from "../files/read-file.ts";
import { BpeModel, SHORT_WORD_LENGTH, type TokenIds } from "./bpe-model.ts";
import { CHUNK_LENGTH, finish } from "./pausing.ts";
import { readNormalizer, readPreTokenizer } from "./pipeline.ts";
import { type NormalizerStep, type PreTokenizerStep, wordsOf } from "./pre-tokenizer.ts";
import { UnigramModel } from "./unigram.ts";
import { PieceTable, WordPieceModel } from "./word-piece.ts";
import { type AddedToken, AddedTokenSplitter, SpellingTrie, type Vocabulary } from "./vocabulary.ts";

// Number of short words between two pauses.
const WORDS_BETWEEN_PAUSES = 128;

interface Target {
  /** Whether the text begins what is encoded. */
  readonly isFirst: boolean;
  readonly ids: TokenIds;
}

/** Cuts a text at added tokens, before and after it is normalized, and encodes the rest with the model. */
interface Pass {
  readonly raw: AddedTokenSplitter;
  readonly normalized: AddedTokenSplitter;
  readonly model: WordModel;
}

/** Encodes words. */
type WordModel = Pick<BpeModel, "encodeShort" | "encodeLong">;

/** Encodes texts without the special tokens around them. */
export class TokenEncoder {
  readonly #normalizer: readonly NormalizerStep[];
  readonly #preTokenizer: readonly PreTokenizerStep[];
  readonly #tokens: ReadonlyMap<string, AddedToken>;
  readonly #plain: Pass;
  /** The pass for texts with marks, in which only unmarked spellings are control tokens. */
  readonly #guarded: Pass;
  readonly #controls: readonly string[];
  readonly #guards = new Map<string, TokenGuard>(); // by their marks
  /** Spellings of control tokens that are searched for in normalized texts. */
  readonly #normalizedControls: readonly string[];

  /** @throws {ReadMeError} `ERR_FILE_CORRUPT`; `ERR_MODEL_UNSUPPORTED` naming what this project does not have */
  constructor(path: string, tokenizer: JsonObject, vocabulary: Vocabulary) {
    const definition = expectObject(path, "`model`", tokenizer["model"]);
    this.#normalizer = readNormalizer(path, tokenizer["normalizer"]);
    this.#preTokenizer = readPreTokenizer(path, tokenizer, vocabulary);
    const tokens = new Map<string, AddedToken>();
    const raw: string[] = [];
    const normalized: string[] = [];
    for (const token of vocabulary.added) {
      tokens.set(token.content, token);
      if (token.normalized && this.#normalizer.length > 0) {
        const content = finish(this.#normalize(token.content));
        normalized.push(content);
        tokens.set(content, token);
      } else raw.push(token.content);
    }
    this.#tokens = tokens;
    const overrides = new Map([...tokens].map(([spelling, { id }]) => [spelling, id]));
    for (const [spelling, id] of overrides) if (vocabulary.ids.get(spelling) === id) overrides.delete(spelling);
    const Pieces = { WordPiece: WordPieceModel, Unigram: UnigramModel }[String(definition["type"])];
    const merging = Pieces ? undefined : BpeModel.of(definition, vocabulary, overrides);
    const modelWithout = (excluded: ReadonlySet<number>): WordModel =>
      Pieces
        ? new Pieces(definition, new PieceTable(vocabulary, overrides, excluded), vocabulary)
        : merging!.without(excluded);
    this.#plain = {
      raw: new AddedTokenSplitter(raw, tokens),
      normalized: new AddedTokenSplitter(normalized, tokens),
      model: merging ?? modelWithout(new Set()),
    };
    // A text with marks loses them before it is normalized, so all control tokens have to be cut out before.
    const controls = vocabulary.added.filter(({ special }) => special);
    const others = new Map([...tokens].filter(([, { special }]) => !special));
    const all = new Map([...others, ...controls.map((token) => [token.content, token] as const)]);
    this.#controls = controls.map(({ content }) => content);
    this.#normalizedControls = normalized.filter((spelling) => tokens.get(spelling)?.special);
    this.#guarded = {
      raw: new AddedTokenSplitter([...raw, ...this.#controls], all),
      normalized: new AddedTokenSplitter(
        normalized.filter((spelling) => others.has(spelling)),
        others,
      ),
      model: modelWithout(new Set(controls.map(({ id }) => id))),
    };
  }

  /** Returns the id of a token that a post-processor adds. */
  idOf(text: string, ids: ReadonlyMap<string, number>): number | undefined {
    return this.#tokens.get(text)?.id ?? ids.get(text);
  }

  /**
   * Adds a text's ids to `ids`. Pauses every few tenths of a millisecond at least, except in searches of a pattern,
   * which can take some 20 ns for each character of one piece.
   *
   * @param guard - for a text with marks, in which only unmarked spellings are control tokens
   */
  *encode(text: string, ids: TokenIds, guard?: Pick<TokenGuard, "restore">): Generator<void, void> {
    const pass = guard ? this.#guarded : this.#plain;
    for (const section of pass.raw.split(text)) {
      if (section === undefined) yield;
      else if (section.token) ids.push(section.token.id);
      else {
        const restored = guard ? guard.restore(section.text) : section.text;
        yield* this.#encodeSection(pass, yield* this.#normalize(restored), { isFirst: section.index === 0, ids });
      }
    }
  }

  /** Returns the guard for a template. @param marks - two characters that the template does not have */
  guard(marks: readonly [string, string]): TokenGuard {
    const spellings = this.#normalizedControls;
    const isSpelledWhenNormalized = (text: string): boolean => {
      const normalized = spellings.length === 0 ? "" : finish(this.#normalize(text));
      return spellings.some((spelling) => normalized.includes(spelling));
    };
    const key = marks.join("");
    const guard = this.#guards.get(key) ?? new TokenGuard(this.#controls, marks, isSpelledWhenNormalized);
    this.#guards.set(key, guard);
    return guard;
  }

  *#normalize(text: string): Generator<void, string> {
    let normalized = text;
    for (const step of this.#normalizer) {
      const applied = step.apply(normalized);
      normalized = typeof applied === "string" ? applied : yield* applied;
    }
    return normalized;
  }

  *#encodeSection({ normalized, model }: Pass, text: string, target: Target): Generator<void, void> {
    for (const section of normalized.split(text)) {
      if (section === undefined) yield;
      else if (section.token) target.ids.push(section.token.id);
      else yield* this.#encodeWords(model, section.text, target);
    }
  }

  *#encodeWords(model: WordModel, text: string, { isFirst, ids }: Target): Generator<void, void> {
    let count = 0;
    ids.last = -1;
    for (const word of wordsOf(this.#preTokenizer, text, isFirst)) {
      if (word === undefined) yield;
      else if (typeof word !== "string") yield* model.encodeLong(word, ids);
      else if (word.length > SHORT_WORD_LENGTH) yield* model.encodeLong([word], ids);
      else {
        model.encodeShort(word, ids);
        if (++count % WORDS_BETWEEN_PAUSES === 0) yield;
      }
    }
  }
}

// Keeps spellings of control tokens in callers' strings from becoming control tokens, through the template and the cut
// at added tokens. Marks that no real text has break the spellings apart; they are removed before the text is encoded.

/** A value whose strings are marked, and whether any string needed it. */
interface Guarded<Value> {
  readonly value: Value;
  readonly isMarked: boolean;
}

interface Progress {
  isMarked: boolean;
  numValues: number;
}

// Names of speakers, types and fields: templates compare them, or write them between two halves of a token's spelling.
const PLAIN_NAME = /^[\w .-]{1,64}$/;

const VALUES_BETWEEN_PAUSES = 256;

/** Marks callers' strings for one template, and removes the marks again. */
export class TokenGuard {
  readonly #forwards: SpellingTrie;
  readonly #backwards: SpellingTrie;
  readonly #maxLength: number;
  /** Matches the first characters of spellings, and the marks. */
  readonly #candidates: RegExp;
  readonly #break: string;
  readonly #escape: string;
  /** Characters that are written as an escape: the marks, and spellings of one character. */
  readonly #escaped: readonly string[];
  readonly #escapes: RegExp;
  readonly #isSpelledWhenNormalized: (text: string) => boolean;

  /**
   * @param spellings - spellings of control tokens
   * @param marks - two characters that the template does not have; texts may have them
   * @param isSpelledWhenNormalized - checks that normalization makes a spelling out of a text
   */
  constructor(
    spellings: readonly string[],
    [breaking, escaping]: readonly [string, string],
    isSpelledWhenNormalized: (text: string) => boolean = () => false,
  ) {
    const long = spellings.filter((spelling) => Array.from(spelling).length > 1);
    this.#forwards = new SpellingTrie(long);
    this.#backwards = new SpellingTrie(long.map(reversed));
    this.#maxLength = long.reduce((most, { length }) => Math.max(most, length), 0);
    this.#escaped = [breaking, escaping, ...spellings.filter((spelling) => Array.from(spelling).length === 1)];
    const firsts = [...new Set([...this.#escaped, ...long.map(([first = ""]) => first)])];
    this.#candidates = new RegExp(firsts.map(escapedForRegex).join("|"), "gu");
    [this.#break, this.#escape] = [breaking, escaping];
    this.#escapes = new RegExp(`${escaping}(\\d+)${escaping}`, "gu");
    this.#isSpelledWhenNormalized = isSpelledWhenNormalized;
  }

  /** Marks all strings in a value, also names of fields, with pauses. */
  *guard<Value>(value: Value): Generator<void, Guarded<Value>> {
    const progress = { isMarked: false, numValues: 0 };
    // The copy has the shape of the value.
    const guarded = (yield* this.#guardValue(value, "", progress)) as Value;
    const { isMarked } = progress;
    return { value: isMarked ? guarded : value, isMarked };
  }

  *#guardValue(value: unknown, name: string, progress: Progress): Generator<void, unknown> {
    if (++progress.numValues % VALUES_BETWEEN_PAUSES === 0) yield;
    if (typeof value === "string") {
      const isName = (name === "role" || name === "type") && PLAIN_NAME.test(value);
      return isName ? value : yield* this.#guardString(value, progress);
    }
    if (isList(value)) {
      const list: unknown[] = [];
      for (const entry of value) list.push(yield* this.#guardValue(entry, "", progress));
      return list;
    }
    if (typeof value !== "object" || value === null) return value;
    const fields: [string, unknown][] = [];
    for (const [field, entry] of Object.entries(value)) {
      const marked = PLAIN_NAME.test(field) ? field : yield* this.#guardString(field, progress);
      fields.push([marked, yield* this.#guardValue(entry, field, progress)]);
    }
    return Object.fromEntries(fields);
  }

  *#guardString(text: string, progress: Progress): Generator<void, string> {
    const marked = yield* this.#mark(text);
    if (marked !== text || this.#isSpelledWhenNormalized(text)) progress.isMarked = true;
    return marked;
  }

  /** Removes the marks from a rendered text, or from a part of it. */
  restore(text: string): string {
    const joined = text.includes(this.#break) ? text.replaceAll(this.#break, "") : text;
    if (!joined.includes(this.#escape)) return joined;
    return joined.replaceAll(this.#escapes, (_, index: string) => this.#escaped[Number(index)] ?? "");
  }

  *#mark(text: string): Generator<void, string> {
    const parts: string[] = [];
    let end = 0;
    let pauseAt = CHUNK_LENGTH;
    for (const { 0: character, index } of text.matchAll(this.#candidates)) {
      const escape = this.#escaped.indexOf(character);
      if (escape >= 0) {
        parts.push(text.slice(end, index), `${this.#escape}${escape}${this.#escape}`);
        end = index + character.length;
      } else if (this.#forwards.matchAt(text, index) > 0) {
        parts.push(text.slice(end, index + character.length), this.#break);
        end = index + character.length;
      }
      if (index >= pauseAt) {
        pauseAt = index + CHUNK_LENGTH;
        yield;
      }
    }
    parts.push(text.slice(end));
    return this.#markEnds(parts.length === 1 ? text : parts.join(""));
  }

  /** Breaks beginnings and ends that may be spelled on by the text around them, also once spaces are trimmed. */
  #markEnds(text: string): string {
    const trimmed = text.trimEnd();
    let marked = text;
    for (let at = Math.max(0, trimmed.length - this.#maxLength + 1); at < trimmed.length; at++) {
      if (!this.#forwards.beginsAt(trimmed, at)) continue;
      marked = trimmed + this.#break + text.slice(trimmed.length);
      break;
    }
    const start = marked.length - marked.trimStart().length;
    const beginning = reversed(marked.slice(start, start + this.#maxLength - 1));
    for (let at = 0; at < beginning.length; at++) {
      if (this.#backwards.beginsAt(beginning, at)) return marked.slice(0, start) + this.#break + marked.slice(start);
    }
    return marked;
  }
}

/**
 * Returns two noncharacters of Unicode that a template does not have.
 * @throws {ReadMeError} `ERR_CHAT_TEMPLATE` for a template that has them all
 */
export function freeMarks(text: string): readonly [string, string] {
  const [first, second] = Array.from({ length: 32 }, (_, index) => String.fromCharCode(0xfdd0 + index)).filter(
    (character) => !text.includes(character),
  );
  if (first !== undefined && second !== undefined) return [first, second];
  throw new ReadMeError("ERR_CHAT_TEMPLATE", "The chat template has all characters from U+FDD0 to U+FDEF");
}

function reversed(text: string): string {
  return Array.from({ length: text.length }, (_, index) => text.charAt(text.length - 1 - index)).join("");
}

function escapedForRegex(text: string): string {
  return text.replaceAll(/[$()*+.?[\\\]^{|}/-]/g, String.raw`\$&`);
}
