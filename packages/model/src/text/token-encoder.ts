// From a text to the ids of its tokens, with pauses: what a tokenizer.json describes, step by step.

import { AddedTokenSplitter } from "./added-token-splitter.ts";
import { BpeModel, SHORT_WORD_LENGTH } from "./bpe-model.ts";
import { CHARACTER_OF_BYTE } from "./byte-alphabet.ts";
import { expectObject, type JsonObject } from "../files/json-object.ts";
import type { NormalizerStep } from "./normalizer.ts";
import { type PreTokenizerStep, toByteAlphabet, wordsOf } from "./pre-tokenizer.ts";
import { referenceNormalizer, referencePreTokenizer } from "./reference-parity.ts";
import { TokenGuard } from "./token-guard.ts";
import type { TokenIds } from "./token-ids.ts";
import type { AddedToken, Vocabulary } from "./vocabulary.ts";

// Short words between two pauses.
const WORDS_BETWEEN_PAUSES = 128;

interface Target {
  /** The text begins what is encoded. */
  readonly isFirst: boolean;
  readonly sink: TokenIds;
}

/** How a text is cut at added tokens, before and after it is normalized, and what becomes of the rest. */
interface Pass {
  readonly raw: AddedTokenSplitter;
  readonly normalized: AddedTokenSplitter;
  readonly model: BpeModel;
}

/** Encodes texts; what goes around them is not its own. */
export class TokenEncoder {
  readonly #normalizer: readonly NormalizerStep[];
  readonly #preTokenizer: readonly PreTokenizerStep[];
  readonly #tokens: ReadonlyMap<string, AddedToken>;
  readonly #plain: Pass;
  readonly #guarded: Pass;
  readonly #controls: readonly string[];
  readonly #guards = new Map<string, TokenGuard>(); // by their marks
  /** Spellings of control tokens that are searched in normalized texts. */
  readonly #normalizedControls: readonly string[];
  /** Bytes of a text that a token stands for at most; `Infinity` where that is not known. */
  readonly maxTokenBytes: number;
  /** Characters that may become no token; `undefined` where all become some. */
  readonly lostCharacters: RegExp | undefined;

  /** @throws {ReadMeError} `ERR_FILE_CORRUPT`; `ERR_MODEL_UNSUPPORTED` naming what this project does not have */
  constructor(path: string, tokenizer: JsonObject, vocabulary: Vocabulary) {
    const definition = expectObject(path, "`model`", tokenizer["model"]);
    this.#normalizer = referenceNormalizer(path, tokenizer["normalizer"]);
    this.#preTokenizer = referencePreTokenizer(path, tokenizer, vocabulary);
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
    const model = BpeModel.of(definition, vocabulary, overrides);
    this.#plain = {
      raw: new AddedTokenSplitter(raw, tokens),
      normalized: new AddedTokenSplitter(normalized, tokens),
      model,
    };
    // Where a text has spellings of control tokens that are none, all real ones are cut out before it is normalized.
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
      model: model.without(new Set(controls.map(({ id }) => id))),
    };
    this.maxTokenBytes = this.#longestToken(definition, vocabulary);
    const losesBytes = this.#isByteLevel && !this.#plain.model.coversAllCharacters;
    this.lostCharacters = losesBytes ? charactersWithMissingBytes(vocabulary.ids) : undefined;
  }

  /** The id of a token that a post-processor adds. */
  idOf(text: string, ids: ReadonlyMap<string, number>): number | undefined {
    return this.#tokens.get(text)?.id ?? ids.get(text);
  }

  /**
   * Adds a text's ids to `sink`. Pauses after some tenths of a millisecond at most, but for searches of a pattern,
   * which can take some 20 ns for each character that one piece has.
   *
   * @param guard - of a text with marks: only what has none is a control token
   */
  *encode(text: string, sink: TokenIds, guard?: Pick<TokenGuard, "restore">): Generator<void, void> {
    const pass = guard ? this.#guarded : this.#plain;
    for (const section of pass.raw.split(text)) {
      if (section === undefined) yield;
      else if (section.token) sink.push(section.token.id);
      else {
        const restored = guard ? guard.restore(section.text) : section.text;
        yield* this.#encodeSection(pass, yield* this.#normalize(restored), { isFirst: section.index === 0, sink });
      }
    }
  }

  /** @param marks - two characters that are in no template */
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

  *#encodeSection({ normalized, model }: Pass, text: string, to: Target): Generator<void, void> {
    for (const section of normalized.split(text)) {
      if (section === undefined) yield;
      else if (section.token) to.sink.push(section.token.id);
      else yield* this.#encodeWords(model, section.text, to);
    }
  }

  *#encodeWords(model: BpeModel, text: string, { isFirst, sink }: Target): Generator<void, void> {
    let count = 0;
    sink.last = -1;
    for (const word of wordsOf(this.#preTokenizer, text, isFirst)) {
      if (word === undefined) yield;
      else if (typeof word !== "string") yield* model.encodeLong(word, sink);
      else if (word.length > SHORT_WORD_LENGTH) yield* model.encodeLong([word], sink);
      else {
        model.encodeShort(word, sink);
        if (++count % WORDS_BETWEEN_PAUSES === 0) yield;
      }
    }
  }

  get #isByteLevel(): boolean {
    return this.#preTokenizer.some((step) => step.type === "map" && step.map === toByteAlphabet);
  }

  #longestToken(definition: JsonObject, vocabulary: Vocabulary): number {
    const { added } = vocabulary;
    const isByteLevel = this.#isByteLevel;
    const losesText =
      added.some(({ lstrip, rstrip }) => lstrip || rstrip) ||
      this.#preTokenizer.some((step) => step.type === "split" && step.dropsRest) ||
      !(isByteLevel || this.#plain.model.coversAllCharacters);
    if (losesText) return Infinity;
    const bytesOf = isByteLevel ? (text: string) => text.length : (text: string) => Buffer.byteLength(text);
    let longest = BpeModel.longestBytes(definition, vocabulary, bytesOf);
    for (const spelling of this.#tokens.keys()) longest = Math.max(longest, Buffer.byteLength(spelling));
    return this.#normalizer.reduce((bytes, { shrinks }) => bytes * shrinks, longest);
  }
}

/** Bytes that begin a character in UTF-8, and which characters those are. */
const LEADS = [
  { from: 0xc2, to: 0xe0, mask: 0x1f, shift: 6, least: 0x80 },
  { from: 0xe0, to: 0xf0, mask: 0x0f, shift: 12, least: 0x800 },
  { from: 0xf0, to: 0xf5, mask: 0x07, shift: 18, least: 0x10000 },
];

/** What has a byte in its UTF-8 for which a byte-level vocabulary has no token. */
function charactersWithMissingBytes(ids: ReadonlyMap<string, number>): RegExp | undefined {
  const ranges: string[] = [];
  const add = (first: number, last: number): void =>
    void ranges.push(`\\u{${first.toString(16)}}-\\u{${Math.min(last, 0x10ffff).toString(16)}}`);
  for (const [byte, character] of CHARACTER_OF_BYTE.entries()) {
    if (ids.has(character)) continue;
    const lead = LEADS.find(({ from, to }) => byte >= from && byte < to);
    if (byte < 0x80) add(byte, byte);
    else if (byte < 0xc0) add(0x80, 0x10ffff);
    else if (lead) {
      const first = (byte & lead.mask) << lead.shift;
      add(Math.max(first, lead.least), first + 2 ** lead.shift - 1);
    }
  }
  return ranges.length === 0 ? undefined : new RegExp(`[${ranges.join("")}]`, "u");
}

/** Runs work to its end without a pause. */
export function finish<Result>(work: Generator<void, Result>): Result {
  for (;;) {
    const { done, value } = work.next();
    if (done === true) return value;
  }
}
