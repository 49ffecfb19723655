import { describeValue, messageOf, ReadMeError } from "@readme-moe/core";
import { cut, unsupported } from "../files/errors.ts";
import type { JsonObject } from "../files/read-file.ts";
import { joinIds, TokenIds } from "./bpe-model.ts";
import { finish } from "./pausing.ts";
import { type Frame, type Frames, pairLengths, readFrames } from "./pipeline.ts";
import { TokenEncoder, type TokenGuard } from "./token-encoder.ts";
import { cleanUp, type DecodeOptions, readSpelling, spelledBytes, type TokenSpelling } from "./token-text.ts";
import {
  type NamedToken,
  namedToken,
  readVocabulary,
  tokenText,
  type Vocabulary,
  withConfigTokens,
} from "./vocabulary.ts";

/** Source of a tokenizer: the contents of the two files of a Hugging Face folder. */
export interface TokenizerSource {
  /** Path that messages name. */
  readonly path: string;
  /** The contents of tokenizer.json, or an object of the same shape. */
  readonly tokenizer: JsonObject;
  /** The contents of tokenizer_config.json, which names the tokens that have a role. @default {} */
  readonly config?: JsonObject;
  /** Path of `config` that messages name. @default path */
  readonly configPath?: string;
  /** Ids of `model.vocab` by spelling. @default read from there */
  readonly ids?: ReadonlyMap<string, number>;
}

/** Options of encoding: the tokens around a text, and limits. */
export interface EncodeOptions {
  /** Adds the tokens that the model expects around a text, such as a BOS token. @default true */
  readonly addSpecialTokens?: boolean;
  /** Limit on the number of tokens; a longer text is refused as soon as that is known. @default Infinity */
  readonly maxTokens?: number;
  /** Whether a longer text is cut instead; the tokens around it stay. @default false */
  readonly cuts?: boolean;
  /** Guard whose marks in the text make spellings of control tokens ordinary text. @default none */
  readonly guard?: Pick<TokenGuard, "restore">;
  /** Makes the error for a text of at least so many tokens. @default a ReadMeError `ERR_CONTEXT_LENGTH` */
  readonly tooMany?: (atLeast: number) => Error;
}

const NO_BYTES = new Uint8Array();

/** Marks of the guard for texts without a template, which may have these characters, too. */
const PLAIN_MARKS = ["\ufdd0", "\ufdd1"] as const;

/**
 * Turns text into token ids and back.
 *
 * Ids are those of the reference implementation (the Rust crate `tokenizers`). Text is the UTF-8 that the tokens' bytes
 * spell; bytes that are no UTF-8 become U+FFFD as the WHATWG Encoding Standard says.
 */
export class Tokenizer {
  /** One more than the largest id. A model's logits may have more columns. */
  readonly vocabSize: number;
  readonly bosToken: NamedToken | undefined;
  readonly eosToken: NamedToken | undefined;
  readonly unkToken: NamedToken | undefined;
  readonly padToken: NamedToken | undefined;
  /** Whether decoding removes one leading space, which encoding put there. */
  readonly stripsLeadingSpace: boolean;
  /** Whether decoding removes spaces before punctuation, as some tokenizer configs ask for. */
  readonly cleansUpSpaces: boolean;
  readonly #path: string;
  readonly #encoder: TokenEncoder;
  readonly #frames: Frames;
  readonly #vocabulary: Vocabulary;
  readonly #config: JsonObject;
  readonly #spelling: TokenSpelling;
  readonly #addedIds: ReadonlySet<number>;
  readonly #specialIds: Set<number>;
  readonly #bytes: (Uint8Array | undefined)[] = []; // [vocabSize], filled on demand

  /** @throws {ReadMeError} `ERR_FILE_CORRUPT`; `ERR_MODEL_UNSUPPORTED` naming what this project does not have */
  constructor(source: TokenizerSource) {
    const { path, tokenizer, config = {}, configPath = path, ids } = source;
    const vocabulary = withConfigTokens(configPath, readVocabulary(path, tokenizer, ids), config);
    [this.#encoder, this.#frames] = build(path, () => {
      const encoder = new TokenEncoder(path, tokenizer, vocabulary);
      const idOf = (token: string): number | undefined => encoder.idOf(token, vocabulary.ids);
      return [encoder, readFrames(path, tokenizer["post_processor"] ?? null, idOf)];
    });
    this.#path = path;
    // The encoder has its own table of the merges.
    this.#vocabulary = { ...vocabulary, merges: [] };
    this.#config = config;
    this.#spelling = readSpelling(path, tokenizer["decoder"]);
    this.#addedIds = new Set(this.#vocabulary.added.map(({ id }) => id));
    this.#specialIds = new Set(this.#vocabulary.added.filter(({ special }) => special).map(({ id }) => id));
    this.vocabSize = this.#vocabulary.texts.length;
    this.bosToken = namedToken("bos_token", config, this.#vocabulary);
    this.eosToken = namedToken("eos_token", config, this.#vocabulary);
    this.unkToken = namedToken("unk_token", config, this.#vocabulary);
    this.padToken = namedToken("pad_token", config, this.#vocabulary);
    this.stripsLeadingSpace = this.#spelling.stripsLeadingSpace;
    const isCleaned = config["clean_up_tokenization_spaces"] ?? this.#spelling.continuing !== undefined;
    this.cleansUpSpaces = isCleaned === true;
  }

  /**
   * Encodes a text.
   * @param text - lone surrogates count as U+FFFD, since they have no UTF-8
   * @returns a fresh array of ids, `[numTokens]`; for an empty text, the special tokens alone
   */
  encode(text: string, options: EncodeOptions = {}): Int32Array {
    return finish(this.encodeInSteps(text, options));
  }

  /**
   * Encodes a text in steps of less than a millisecond. The caller may pause or stop between two steps. A search in
   * one long piece of a text takes longer, some 20 ns for each of its characters.
   */
  *encodeInSteps(text: string, options: EncodeOptions = {}): Generator<void, Int32Array> {
    if (typeof text !== "string") throw new TypeError(`Expected \`text\` to be a string, got ${describeValue(text)}`);
    const {
      addSpecialTokens = true,
      maxTokens = Infinity,
      cuts = false,
      tooMany = (atLeast) =>
        new ReadMeError("ERR_CONTEXT_LENGTH", `The text has at least ${atLeast} tokens, more than ${maxTokens}`),
    } = options;
    const frame = addSpecialTokens ? this.#frames.withSpecial : this.#frames.plain;
    const numAdded = frame.reduce((sum, { length }) => sum + length, 0);
    const check = (numTokens: number): void => {
      if (!cuts && numTokens + numAdded > maxTokens) throw tooMany(numTokens + numAdded);
    };
    const ids = new TokenIds();
    // Node 20 has this method, the types of ES2023 do not.
    const wellFormed = (text as string & { toWellFormed(): string }).toWellFormed();
    for (const work = this.#encoder.encode(wellFormed, ids, options.guard); work.next().done !== true;) {
      check(Math.max(ids.length, ids.atLeast));
      if (cuts && ids.length + numAdded >= maxTokens) break;
      yield;
    }
    check(ids.length);
    const body = ids.toArray();
    return framed(frame, cuts ? body.subarray(0, Math.max(0, maxTokens - numAdded)) : body);
  }

  /** Encodes a text, in which spellings of control tokens are text, in steps and without special tokens around it. */
  *encodePlainInSteps(
    text: string,
    limits: Pick<EncodeOptions, "maxTokens" | "cuts" | "tooMany"> = {},
  ): Generator<void, Int32Array> {
    const guard = this.guard(PLAIN_MARKS);
    const { value, isMarked } = yield* guard.guard(text);
    const options = { ...limits, addSpecialTokens: false };
    return yield* this.encodeInSteps(value, isMarked ? { ...options, guard } : options);
  }

  /**
   * Encodes two texts as one, in which spellings of control tokens are text. Both are cut, the longer one first, to
   * `maxTokens` in all.
   *
   * @param tooMany - makes the error for texts of at least so many tokens in all @default longer texts are cut
   * @returns ids, and the segment of each, 0 or 1
   * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` if the tokenizer does not join texts
   */
  *encodePairInSteps(
    texts: readonly [first: string, second: string],
    maxTokens: number,
    tooMany?: (atLeast: number) => Error,
  ): Generator<void, { readonly ids: Int32Array; readonly segments: Uint8Array }> {
    const { pair } = this.#frames;
    if (!pair) throw unsupported(this.#path, "has no `post_processor` that joins two texts");
    const room = Math.max(0, maxTokens - (pair.length - 2));
    // One token more than there is room for shows that a text is too long.
    const limits = { maxTokens: tooMany ? room + 1 : room, cuts: true };
    const first = yield* this.encodePlainInSteps(texts[0], limits);
    const second = yield* this.encodePlainInSteps(texts[1], limits);
    if (tooMany && first.length + second.length > room) throw tooMany(maxTokens - room + first.length + second.length);
    const lengths = pairLengths(first.length, second.length, room);
    const parts = [first.subarray(0, lengths[0]), second.subarray(0, lengths[1])];
    const lists = pair.map((item) => ("id" in item ? [item.id] : parts[item.part]!));
    return {
      ids: joinIds(lists),
      segments: Uint8Array.from(lists.flatMap(({ length }, index) => Array<number>(length).fill(pair[index]!.segment))),
    };
  }

  /** Tokens that encoding puts before a text unless `addSpecialTokens` is false, such as a BOS token. */
  get openingIds(): readonly number[] {
    return this.#frames.withSpecial[0] ?? [];
  }

  /** Decodes ids; ids without a token stand for nothing. */
  decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    const { skipSpecialTokens = false } = options;
    const pieces: Uint8Array[] = [];
    for (const id of ids) {
      if (!(skipSpecialTokens && this.isSpecial(id))) pieces.push(this.tokenBytes(id));
    }
    const bytes = Buffer.concat(pieces);
    const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
    const stripped = this.stripsLeadingSpace && text.startsWith(" ") ? text.slice(1) : text;
    return this.cleansUpSpaces ? cleanUp(stripped) : stripped;
  }

  /** Makes tokens a part of decoded texts. Spellings of control tokens among them are guarded as before. */
  show(spellings: readonly string[]): void {
    for (const text of spellings) this.#specialIds.delete(this.#vocabulary.ids.get(text) ?? -1);
  }

  /** Checks that the token steers the model and is no part of a text. */
  isSpecial(id: number): boolean {
    return this.#specialIds.has(id);
  }

  /**
   * Returns the guard that keeps callers' texts in a chat from becoming control tokens.
   * @param marks - two characters that the template does not have
   */
  guard(marks: readonly [string, string]): TokenGuard {
    return this.#encoder.guard(marks);
  }

  /** Returns the id of the token that the vocabulary spells `text`, such as `<|im_end|>`. */
  tokenId(text: string): number | undefined {
    return this.#vocabulary.ids.get(text);
  }

  /** Returns the text that the config has for a role, such as `prefix_token`. */
  roleOf(role: string): string | undefined {
    return tokenText(this.#config[role]);
  }

  /** Returns a token's text as the vocabulary spells it; `undefined` for an id without a token. */
  spelling(id: number): string | undefined {
    return this.#vocabulary.texts[id];
  }

  /**
   * Returns exactly the bytes that a token stands for, often a part of a UTF-8 character, with a leading space if it
   * has one; none for an id without a token. The array is shared: do not write to it.
   */
  tokenBytes(id: number): Uint8Array {
    const known = this.#bytes[id];
    if (known !== undefined) return known;
    const text = this.#vocabulary.texts[id];
    if (text === undefined) return NO_BYTES;
    const bytes = spelledBytes(this.#spelling, text, this.#addedIds.has(id));
    this.#bytes[id] = bytes;
    return bytes;
  }
}

/**
 * Returns the token that models see between documents in training; chat models end a turn with another one. Gemma has
 * `</s>` as a tag of HTML, which is no special token.
 */
export function endOfTextId(tokenizer: Tokenizer, eosTokenIds: readonly number[]): number {
  for (const text of ["<|endoftext|>", "<|end_of_text|>", "</s>"]) {
    const id = tokenizer.tokenId(text);
    if (id !== undefined && tokenizer.isSpecial(id)) return id;
  }
  return eosTokenIds[0] ?? 0;
}

/** Translates errors of the library, such as on a pattern that it cannot read. @throws {ReadMeError} */
function build<Built>(path: string, make: () => Built): Built {
  try {
    return make();
  } catch (cause) {
    if (cause instanceof ReadMeError) throw cause;
    throw unsupported(path, `the tokenizer cannot be built (${cut(messageOf(cause))})`, { cause });
  }
}

function framed(frame: Frame, body: Int32Array): Int32Array {
  if (frame.length === 2 && frame.every(({ length }) => length === 0)) return body;
  return joinIds(frame.flatMap((part, index) => (index === 0 ? [part] : [body, part])));
}

// Long texts as sequences of tokens that a model can be measured on, or learn from.

/**
 * Cuts the tokens of a text into sequences of `length`. Each begins with the tokens that the model expects before a
 * text, such as a BOS token: models that were made with one predict little without it.
 *
 * @returns whole sequences; the rest is left out
 */
export function cutSequences(
  { openingIds }: Pick<Tokenizer, "openingIds">,
  tokens: ArrayLike<number>,
  length: number,
): readonly Int32Array[] {
  const own = length - openingIds.length;
  if (own < 1) throw new RangeError(`Expected \`length\` to be above ${openingIds.length}, got ${length}`);
  return Array.from({ length: Math.floor(tokens.length / own) }, (_, index) => {
    const sequence = new Int32Array(length);
    sequence.set(openingIds);
    for (let i = 0; i < own; i++) sequence[openingIds.length + i] = tokens[index * own + i] ?? 0;
    return sequence;
  });
}
