// From token ids to text: the bytes of each token, the clean-up of spaces, and decoding one token at a time.

import { describeValue, type FinishReason, isRecord, type StopAutomaton, StopMatcher } from "@readme-moe/core";
import { unsupported } from "../files/errors.ts";
import type { JsonObject } from "../files/read-file.ts";
import { checkGrowth, flatten } from "./pipeline.ts";
import { BYTE_OF_CHARACTER } from "./pre-tokenizer.ts";
import { CONTINUING } from "./word-piece.ts";

/** The `decoder` of a tokenizer.json: the spelling of bytes, and the decoding of a whole text. */
export interface TokenSpelling {
  /** Whether tokens are spelled in the byte-level alphabet of GPT-2. */
  readonly isByteLevel: boolean;
  /** Whether `<0xAB>` is a byte. */
  readonly hasByteTokens: boolean;
  readonly replacements: readonly { readonly from: string; readonly to: string }[];
  /** Whether a text loses one leading space, which encoding put there. */
  readonly stripsLeadingSpace: boolean;
  /** Mark of tokens that continue a word, of vocabularies of WordPiece: others begin with a space. */
  readonly continuing: string | undefined;
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
export function readSpelling(path: string, decoder: unknown): TokenSpelling {
  const spelling = { isByteLevel: false, hasByteTokens: false, stripsLeadingSpace: false };
  let continuing: string | undefined;
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
    else if (step["type"] === "WordPiece") {
      continuing = typeof step["prefix"] === "string" ? step["prefix"] : CONTINUING;
      spelling.stripsLeadingSpace = true;
    } else if (step["type"] !== "Fuse") throw refused(path, step["type"]);
  }
  if (steps.length === 0 || (spelling.isByteLevel && steps.length > 1)) throw refused(path, steps[1]?.["type"]);
  checkGrowth(
    path,
    "decoder",
    replacements.map(({ from, to }) => ({ grows: Math.max(1, to.length / from.length) })),
  );
  return { ...spelling, replacements, continuing };
}

/** Returns the bytes of a token. @param isAdded - whether the token is written as it is, not in the byte alphabet */
export function spelledBytes(spelling: TokenSpelling, text: string, isAdded: boolean): Uint8Array {
  const { continuing } = spelling;
  if (continuing !== undefined) {
    const isContinued = text.length > continuing.length && text.startsWith(continuing);
    return encoder.encode(isContinued ? text.slice(continuing.length) : ` ${text}`);
  }
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
export function cleanUp(text: string): string {
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
