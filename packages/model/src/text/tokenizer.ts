import {
  describeValue,
  type FinishReason,
  isRecord,
  messageOf,
  ReadMeError,
  type StopAutomaton,
  StopMatcher,
} from "@readme-moe/core";
import { unsupported } from "../files/errors.ts";
import type { JsonObject } from "../files/read-file.ts";
import { joinIds, TokenIds } from "./bpe-model.ts";
import { finish } from "./pausing.ts";
import { checkGrowth, flatten, type Frame, type Frames, readFrames } from "./pipeline.ts";
import { BYTE_OF_CHARACTER } from "./pre-tokenizer.ts";
import { TokenEncoder, type TokenGuard } from "./token-encoder.ts";
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
      tooMany = (atLeast) =>
        new ReadMeError("ERR_CONTEXT_LENGTH", `The text has at least ${atLeast} tokens, more than ${maxTokens}`),
    } = options;
    const frame = addSpecialTokens ? this.#frames.withSpecial : this.#frames.plain;
    const numAdded = frame.reduce((sum, { length }) => sum + length, 0);
    const check = (numTokens: number): void => {
      if (numTokens + numAdded > maxTokens) throw tooMany(numTokens + numAdded);
    };
    const ids = new TokenIds();
    // Node 20 has this method, the types of ES2023 do not.
    const wellFormed = (text as string & { toWellFormed(): string }).toWellFormed();
    for (const work = this.#encoder.encode(wellFormed, ids, options.guard); work.next().done !== true;) {
      check(Math.max(ids.length, ids.atLeast));
      yield;
    }
    check(ids.length);
    return framed(frame, ids);
  }

  /** Encodes a text, in which spellings of control tokens are text, in steps and without special tokens around it. */
  *encodePlainInSteps(
    text: string,
    limits: Pick<EncodeOptions, "maxTokens" | "tooMany"> = {},
  ): Generator<void, Int32Array> {
    const guard = this.guard(PLAIN_MARKS);
    const { value, isMarked } = yield* guard.guard(text);
    const options = { ...limits, addSpecialTokens: false };
    return yield* this.encodeInSteps(value, isMarked ? { ...options, guard } : options);
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
    throw unsupported(path, `the tokenizer cannot be built (${messageOf(cause)})`, { cause });
  }
}

function framed(frame: Frame, ids: TokenIds): Int32Array {
  const body = ids.toArray();
  if (frame.length === 2 && frame.every(({ length }) => length === 0)) return body;
  return joinIds(frame.flatMap((part, index) => (index === 0 ? [part] : [body, part])));
}

// From token ids to text: the bytes of each token, the clean-up of spaces, and decoding one token at a time.

/** The `decoder` of a tokenizer.json: the spelling of bytes, and the decoding of a whole text. */
interface TokenSpelling {
  /** Whether tokens are spelled in the byte-level alphabet of GPT-2. */
  readonly isByteLevel: boolean;
  /** Whether `<0xAB>` is a byte. */
  readonly hasByteTokens: boolean;
  readonly replacements: readonly { readonly from: string; readonly to: string }[];
  /** Whether a text loses one leading space, which encoding put there. */
  readonly stripsLeadingSpace: boolean;
}

export interface DecodeOptions {
  /** Leaves special tokens out of the text. @default false */
  readonly skipSpecialTokens?: boolean;
}

/** The parts of a tokenizer that decode its tokens. */
export interface TokenReader {
  readonly stripsLeadingSpace: boolean;
  readonly cleansUpSpaces: boolean;
  isSpecial(id: number): boolean;
  tokenBytes(id: number): Uint8Array;
}

const encoder = new TextEncoder();

/** @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` naming a decoder whose tokens do not stand for bytes one by one */
function readSpelling(path: string, decoder: unknown): TokenSpelling {
  const spelling = { isByteLevel: false, hasByteTokens: false, stripsLeadingSpace: false };
  const replacements: { from: string; to: string }[] = [];
  const steps = flatten(path, decoder, "decoders");
  for (const step of steps) {
    if (step["type"] === "ByteLevel") spelling.isByteLevel = true;
    else if (step["type"] === "ByteFallback") spelling.hasByteTokens = true;
    else if (step["type"] === "Replace") replacements.push(readReplacement(path, step));
    else if (step["type"] === "Metaspace") {
      const { replacement, prepend_scheme: scheme, add_prefix_space: hasPrefix } = step;
      replacements.push({ from: typeof replacement === "string" ? replacement : "▁", to: " " });
      if (scheme !== "never" && hasPrefix !== false) spelling.stripsLeadingSpace = true;
    } else if (step["type"] === "Strip" && step["content"] === " " && step["start"] === 1 && (step["stop"] ?? 0) === 0)
      spelling.stripsLeadingSpace = true;
    else if (step["type"] !== "Fuse") throw refused(path, step["type"]);
  }
  if (steps.length === 0 || (spelling.isByteLevel && steps.length > 1)) throw refused(path, steps[1]?.["type"]);
  checkGrowth(
    path,
    "decoder",
    replacements.map(({ from, to }) => ({ grows: Math.max(1, to.length / from.length) })),
  );
  return { ...spelling, replacements };
}

/** Returns the bytes of a token. @param isAdded - whether the token is written as it is, not in the byte alphabet */
function spelledBytes(spelling: TokenSpelling, text: string, isAdded: boolean): Uint8Array {
  if (spelling.isByteLevel) return isAdded ? encoder.encode(text) : byteLevelBytes(text);
  if (spelling.hasByteTokens && /^<0x[0-9A-Fa-f]{2}>$/.test(text)) {
    return Uint8Array.of(Number.parseInt(text.slice(3, 5), 16));
  }
  return encoder.encode(
    spelling.replacements.reduce((spelled, { from, to }) => spelled.replaceAll(from, () => to), text),
  );
}

function byteLevelBytes(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length);
  let length = 0;
  for (const character of text) {
    const byte = BYTE_OF_CHARACTER.get(character);
    // A token with a character outside the alphabet is not spelled in it.
    if (byte === undefined) return encoder.encode(text);
    bytes[length++] = byte;
  }
  return bytes.subarray(0, length);
}

function readReplacement(path: string, step: JsonObject): { from: string; to: string } {
  const { String: from } = isRecord(step["pattern"]) ? step["pattern"] : {};
  const to = step["content"];
  if (typeof from === "string" && from !== "" && typeof to === "string") return { from, to };
  throw unsupported(path, `decoder "Replace" of the pattern ${describeValue(from)} is not supported`);
}

function refused(path: string, type: unknown): Error {
  return unsupported(path, `decoder ${describeValue(type)} is not supported`);
}

// The clean-up of `clean_up_tokenization_spaces`, as transformers does it: no space before punctuation and before
// English contractions.
const REPLACEMENTS: readonly (readonly [string, string])[] = [
  [" .", "."],
  [" ?", "?"],
  [" !", "!"],
  [" ,", ","],
  [" ' ", "'"],
  [" n't", "n't"],
  [" 'm", "'m"],
  [" 's", "'s"],
  [" 've", "'ve"],
  [" 're", "'re"],
];

// Every replacement begins with a space and has only these characters.
const OTHER_CHARACTER = /[^ .?!,'ntmsver]/u;

/** Removes spaces before punctuation and before English contractions. */
function cleanUp(text: string): string {
  return REPLACEMENTS.reduce((cleaned, [from, to]) => cleaned.replaceAll(from, to), text);
}

/**
 * Returns the length of the longest prefix of `text` whose clean-up does not depend on the text after it.
 *
 * A replacement that spans a cut begins at a space before the cut. There is none when a character that no replacement
 * has lies between the last space and the cut, and replacements do not change that.
 */
function cleanablePrefixLength(text: string): number {
  const lastSpace = text.lastIndexOf(" ");
  if (lastSpace === -1) return text.length;
  if (OTHER_CHARACTER.test(text.slice(lastSpace + 1))) return text.length;
  for (let end = text.length - 1; end >= 0; end--) {
    // Cut behind the last character that no replacement has.
    if (OTHER_CHARACTER.test(text.charAt(end))) return end + 1;
  }
  return 0;
}

/**
 * Turns the tokens of one generation into text as they arrive.
 *
 * A returned text never changes later, since bytes of an incomplete UTF-8 character are held back. The texts of all
 * pushes and of `flush` together are `tokenizer.decode` of all ids with the same options.
 */
export class StreamingDecoder {
  readonly #tokenizer: TokenReader;
  readonly #skipsSpecialTokens: boolean;
  readonly #utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  #isAtStart = true;
  #uncleaned = ""; // text that clean-up may still change

  constructor(tokenizer: TokenReader, options: DecodeOptions = {}) {
    this.#tokenizer = tokenizer;
    this.#skipsSpecialTokens = options.skipSpecialTokens ?? false;
  }

  /** @returns the text that is final with this token, often empty */
  push(id: number): string {
    if (this.#skipsSpecialTokens && this.#tokenizer.isSpecial(id)) return "";
    const text = this.#strip(this.#utf8.decode(this.#tokenizer.tokenBytes(id), { stream: true }));
    if (!this.#tokenizer.cleansUpSpaces) return text;
    this.#uncleaned += text;
    const length = cleanablePrefixLength(this.#uncleaned);
    const cleaned = cleanUp(this.#uncleaned.slice(0, length));
    this.#uncleaned = this.#uncleaned.slice(length);
    return cleaned;
  }

  /**
   * Ends the generation; the decoder can then be used for another one.
   * @returns the rest of the text, with U+FFFD for incomplete characters
   */
  flush(): string {
    const text = this.#uncleaned + this.#strip(this.#utf8.decode());
    this.#uncleaned = "";
    this.#isAtStart = true;
    return this.#tokenizer.cleansUpSpaces ? cleanUp(text) : text;
  }

  #strip(text: string): string {
    if (!this.#isAtStart || text === "") return text;
    this.#isAtStart = false;
    return this.#tokenizer.stripsLeadingSpace && text.startsWith(" ") ? text.slice(1) : text;
  }
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

// The text of one completion as its tokens arrive, up to a stop string.

/** Text that a token made certain, and why the completion ends with the token, if it does. */
export interface CompletionPiece {
  /** Whole characters, without any part of a stop string. May be empty until more tokens decide. */
  readonly text: string;
  /** Present if the completion ends: a stop string was found, or the token ends it. */
  readonly finishReason?: FinishReason;
  /** Stop string that ended the completion. */
  readonly stop?: string;
}

/**
 * Turns the tokens of one completion into pieces of text. Bytes of an incomplete character, and text that may be the
 * beginning of a stop string, are held back until more tokens decide. The pieces depend on the tokens alone.
 */
export class CompletionText {
  readonly #decoder: StreamingDecoder;
  readonly #stops: StopMatcher;

  /** @param stops - stop strings, or an automaton of them that completions share */
  constructor(tokenizer: TokenReader, stops: readonly string[] | StopAutomaton) {
    this.#decoder = new StreamingDecoder(tokenizer, { skipSpecialTokens: true });
    this.#stops = new StopMatcher(stops);
  }

  /**
   * Takes the next token. No token may follow one that ends the completion.
   *
   * @param ending - why the completion ends with this token, unless a stop string ends it: "stop" for an end token,
   *   which is not part of the text even if it has a spelling; "length" if there is no room for more tokens
   */
  push(tokenId: number, ending?: FinishReason): CompletionPiece {
    const isEnd = ending === "stop";
    const { text, stopped } = this.#stops.push(isEnd ? this.#decoder.flush() : this.#decoder.push(tokenId));
    if (stopped) return { text, finishReason: "stop", stop: stopped.stop };
    if (ending === undefined) return { text };
    // Text that was held back as the possible beginning of a stop string is certain now, up to a stop string in it.
    const held = this.#stops.push(isEnd ? "" : this.#decoder.flush());
    const last = held.stopped ? undefined : this.#stops.flush();
    const stop = (held.stopped ?? last?.stopped)?.stop;
    const rest = text + held.text + (last?.text ?? "");
    return stop === undefined ? { text: rest, finishReason: ending } : { text: rest, finishReason: "stop", stop };
  }
}
