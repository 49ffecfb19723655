import { describeValue, ReadMeError } from "@readme-moe/core";
import { cleanUp } from "./clean-up.ts";
import { type JsonObject, unsupported } from "../files/json-object.ts";
import { chunkEnd } from "./in-chunks.ts";
import { type NamedToken, namedToken, withConfigTokens } from "./special-tokens.ts";
import { type Frame, type Frames, readFrames } from "./special-frame.ts";
import { finish, TokenEncoder } from "./token-encoder.ts";
import type { TokenGuard } from "./token-guard.ts";
import { TokenIds } from "./token-ids.ts";
import { readSpelling, spelledBytes, type TokenSpelling } from "./token-spelling.ts";
import { readVocabulary, type Vocabulary } from "./vocabulary.ts";

/** What a tokenizer is made from: the contents of the two files of a Hugging Face folder. */
export interface TokenizerSource {
  /** Where it comes from, for messages. */
  readonly path: string;
  /** The contents of tokenizer.json, or what is shaped like it. */
  readonly tokenizer: JsonObject;
  /** The contents of tokenizer_config.json; names the tokens that have a role. @default {} */
  readonly config?: JsonObject;
  /** Where `config` comes from, for messages. @default path */
  readonly configPath?: string;
}

/** What to add around a text, and how many tokens it may have. */
export interface EncodeOptions {
  /** Adds what the model expects around a text, such as a BOS token. @default true */
  readonly addSpecialTokens?: boolean;
  /** Texts with more tokens are refused, as soon as that is known. @default Infinity */
  readonly maxTokens?: number;
  /** Marks in the text, which make spellings of control tokens ordinary text. @default none */
  readonly guard?: Pick<TokenGuard, "restore">;
  /** The error for a text that has at least so many. @default a ReadMeError `ERR_CONTEXT_LENGTH` */
  readonly tooMany?: (atLeast: number) => Error;
}

export interface DecodeOptions {
  /** Leaves special tokens out of the text. @default false */
  readonly skipSpecialTokens?: boolean;
}

const NO_BYTES = new Uint8Array();

/**
 * Text to token ids and back.
 *
 * Ids are those of the reference implementation (the Rust crate `tokenizers`). Text is what the tokens'
 * bytes spell as UTF-8; bytes that are no UTF-8 become U+FFFD as the WHATWG Encoding Standard says.
 */
export class Tokenizer {
  /** One more than the largest id. A model's logits may have more columns than this. */
  readonly vocabSize: number;
  readonly bosToken: NamedToken | undefined;
  readonly eosToken: NamedToken | undefined;
  readonly unkToken: NamedToken | undefined;
  readonly padToken: NamedToken | undefined;
  /** Decoding takes one leading space away, which encoding put there. */
  readonly stripsLeadingSpace: boolean;
  /** Decoding removes spaces before punctuation; only where the tokenizer's config says so. */
  readonly cleansUpSpaces: boolean;
  readonly #encoder: TokenEncoder;
  readonly #frames: Frames;
  readonly #vocabulary: Vocabulary;
  readonly #spelling: TokenSpelling;
  readonly #addedIds: ReadonlySet<number>;
  readonly #specialIds: ReadonlySet<number>;
  readonly #bytes: (Uint8Array | undefined)[] = []; // [vocabSize], filled as tokens are asked for

  /** @throws {ReadMeError} `ERR_FILE_CORRUPT`; `ERR_MODEL_UNSUPPORTED` naming what this project does not have */
  constructor(source: TokenizerSource) {
    const { path, tokenizer, config = {}, configPath = path } = source;
    const vocabulary = withConfigTokens(configPath, readVocabulary(path, tokenizer), config);
    [this.#encoder, this.#frames] = build(path, () => {
      const encoder = new TokenEncoder(path, tokenizer, vocabulary);
      const idOf = (token: string): number | undefined => encoder.idOf(token, vocabulary.ids);
      return [encoder, readFrames(path, tokenizer["post_processor"] ?? null, idOf)];
    });
    // The encoder has made a table of the merges.
    this.#vocabulary = { ...vocabulary, merges: [] };
    this.#spelling = readSpelling(path, tokenizer["decoder"]);
    this.#addedIds = new Set(this.#vocabulary.added.map(({ id }) => id));
    this.#specialIds = new Set(this.#vocabulary.added.filter(({ special }) => special).map(({ id }) => id));
    this.vocabSize = this.#vocabulary.texts.length;
    this.bosToken = namedToken("bos_token", config, this.#vocabulary);
    this.eosToken = namedToken("eos_token", config, this.#vocabulary);
    this.unkToken = namedToken("unk_token", config, this.#vocabulary);
    this.padToken = namedToken("pad_token", config, this.#vocabulary);
    this.stripsLeadingSpace = this.#spelling.stripsLeadingSpace;
    this.cleansUpSpaces = config["clean_up_tokenization_spaces"] === true;
  }

  /**
   * @param text - lone surrogates count as U+FFFD, since they have no UTF-8
   * @returns a fresh array of ids, shape `[numTokens]`; of an empty text, only what `addSpecialTokens` adds
   */
  encode(text: string, options: EncodeOptions = {}): Int32Array {
    return finish(this.encodeInSteps(text, options));
  }

  /**
   * The same in steps of less than a millisecond: a generator that the caller may leave alone between two of them, or for
   * good. A search in one long piece of a text takes longer, some 20 ns for each of its characters.
   */
  *encodeInSteps(text: string, options: EncodeOptions = {}): Generator<void, Int32Array> {
    if (typeof text !== "string") throw new TypeError(`Expected \`text\` to be a string, got ${describeValue(text)}`);
    const {
      addSpecialTokens = true,
      maxTokens = Infinity,
      tooMany = (atLeast) => tooManyTokens(atLeast, maxTokens),
    } = options;
    const frame = addSpecialTokens ? this.#frames.withSpecial : this.#frames.plain;
    const numAdded = frame.reduce((sum, { length }) => sum + length, 0);
    const check = (numTokens: number): void => {
      if (numTokens + numAdded > maxTokens) throw tooMany(numTokens + numAdded);
    };
    // Marks are no part of the text that counts.
    if (this.minTokens(text, maxTokens) + numAdded > maxTokens) {
      check(this.minTokens(options.guard?.restore(text) ?? text, maxTokens));
    }
    const ids = new TokenIds();
    for (const work = this.#encoder.encode(wellFormed(text), ids, options.guard); work.next().done !== true;) {
      check(ids.length);
      yield;
    }
    check(ids.length);
    return framed(frame, ids);
  }

  /**
   * A lower bound of a text's tokens, from its length alone. It is 0 where a tokenizer can leave text out.
   * @param enough - a bound past it may be lower than it could be; one below it may be higher than the tokens
   */
  minTokens(text: string, enough: number = Infinity): number {
    const { maxTokenBytes, lostCharacters } = this.#encoder;
    if (maxTokenBytes === Infinity) return 0;
    const fromUnits = Math.ceil(text.length / maxTokenBytes);
    if (lostCharacters === undefined && fromUnits > enough) return fromUnits;
    const fromBytes = Math.ceil(Buffer.byteLength(text) / maxTokenBytes);
    if (lostCharacters === undefined || (fromBytes <= enough && enough !== Infinity)) return fromBytes;
    return Math.ceil(keptBytes(text, lostCharacters, enough * maxTokenBytes) / maxTokenBytes);
  }

  /** @param ids - ids without a token stand for nothing */
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

  /** The token steers the model and is no part of a text. */
  isSpecial(id: number): boolean {
    return this.#specialIds.has(id);
  }

  /** What keeps callers' texts in a chat from becoming control tokens. @param marks - two characters that are in no template */
  guard(marks: readonly [string, string]): TokenGuard {
    return this.#encoder.guard(marks);
  }

  /** The id of the token that the vocabulary spells `text`, such as `<|im_end|>`. */
  tokenId(text: string): number | undefined {
    return this.#vocabulary.ids.get(text);
  }

  /**
   * Exactly the bytes that a token stands for, often a part of a UTF-8 character; a leading space
   * included. None for an id without a token. The array is shared: do not write to it.
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

/** @throws {ReadMeError} also for what the library throws, such as on a pattern that it cannot read */
function build<Built>(path: string, make: () => Built): Built {
  try {
    return make();
  } catch (cause) {
    if (cause instanceof ReadMeError) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw unsupported(path, `the tokenizer cannot be built (${reason})`, { cause });
  }
}

/** Bytes of those stretches of a text that have none of `lost`; no more are looked at when there are enough. */
function keptBytes(text: string, lost: RegExp, enough: number): number {
  let bytes = 0;
  for (let start = 0, end = 0; start < text.length && bytes <= enough; start = end) {
    end = chunkEnd(text, start);
    const chunk = text.slice(start, end);
    if (!lost.test(chunk)) bytes += Buffer.byteLength(chunk);
  }
  return bytes;
}

function wellFormed(text: string): string {
  // Node 20 has it, the types of ES2023 do not.
  return (text as string & { toWellFormed(): string }).toWellFormed();
}

function framed(frame: Frame, ids: TokenIds): Int32Array {
  const body = ids.toArray();
  if (frame.length === 2 && frame.every(({ length }) => length === 0)) return body;
  const parts = frame.flatMap((part, index) => (index === 0 ? [part] : [body, part]));
  const all = new Int32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

function tooManyTokens(atLeast: number, maxTokens: number): ReadMeError {
  return new ReadMeError("ERR_CONTEXT_LENGTH", `The text has at least ${atLeast} tokens, more than ${maxTokens}`);
}
