import { describeValue, ReadMeError } from "@readme-moe/core";
import { messageOf, unsupported } from "../files/errors.ts";
import type { JsonObject } from "../files/text-file.ts";
import { TokenIds } from "./bpe-model.ts";
import { cleanUp, type DecodeOptions, readSpelling, spelledBytes, type TokenSpelling } from "./decoding.ts";
import { chunkEnd, finish } from "./pausing.ts";
import { type Frame, type Frames, readFrames } from "./pipeline.ts";
import { TokenEncoder } from "./token-encoder.ts";
import type { TokenGuard } from "./token-guard.ts";
import { type NamedToken, namedToken, readVocabulary, type Vocabulary, withConfigTokens } from "./vocabulary.ts";

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
  /** Guard whose marks in the text make spellings of control tokens ordinary text. @default none */
  readonly guard?: Pick<TokenGuard, "restore">;
  /** Makes the error for a text of at least so many tokens. @default a ReadMeError `ERR_CONTEXT_LENGTH` */
  readonly tooMany?: (atLeast: number) => Error;
}

const NO_BYTES = new Uint8Array();

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
  readonly #encoder: TokenEncoder;
  readonly #frames: Frames;
  readonly #vocabulary: Vocabulary;
  readonly #spelling: TokenSpelling;
  readonly #addedIds: ReadonlySet<number>;
  readonly #specialIds: ReadonlySet<number>;
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
    // The encoder has its own table of the merges.
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
      tooMany = (atLeast) => tooManyTokens(atLeast, maxTokens),
    } = options;
    const frame = addSpecialTokens ? this.#frames.withSpecial : this.#frames.plain;
    const numAdded = frame.reduce((sum, { length }) => sum + length, 0);
    const check = (numTokens: number): void => {
      if (numTokens + numAdded > maxTokens) throw tooMany(numTokens + numAdded);
    };
    // Marks do not count as text.
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
   * Returns a lower bound of a text's number of tokens, from its length alone; 0 when the tokenizer can drop text.
   * @param enough - a bound above it may be too low; one below it may be too high
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
    throw unsupported(path, `the tokenizer cannot be built (${messageOf(cause)})`, { cause });
  }
}

/** Counts the bytes of the stretches of a text that match `lost` nowhere; stops when there are enough. */
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
  // Node 20 has this method, the types of ES2023 do not.
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
