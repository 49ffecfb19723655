import { type AllowedTokens, allowsToken, type EngineVocabulary } from "@readme-moe/core";
import { UNUSED_CHARACTER } from "../schema/keywords.ts";
import { JsonLayout } from "./compile-plan.ts";
import type { MaskQuestion } from "./protocol.ts";

/** The library's state of a completion. */
export interface TokenMatcher {
  /** @returns whether the grammar allows the token */
  acceptToken(id: number): boolean;
  rollBack(numTokens: number): void;
  dispose(): void;
}

interface Entry<Matcher> {
  readonly matcher: Matcher;
  accepted: Int32Array;
}

/**
 * Matchers of the completions that were asked about most recently. A question holds all tokens, so repeated
 * questions, questions with fewer tokens than before, and questions about an evicted completion all get the same
 * answer.
 */
export class Matchers<Matcher extends TokenMatcher> {
  readonly #open: () => Promise<Matcher>;
  readonly #maxMatchers: number;
  readonly #entries = new Map<string, Entry<Matcher>>(); // the most recently used last

  constructor(open: () => Promise<Matcher>, maxMatchers: number) {
    this.#open = open;
    this.#maxMatchers = maxMatchers;
  }

  /** @returns the completion's matcher after exactly these tokens; `undefined` when the grammar does not allow them */
  async at({ matcher: name, tokenIds }: MaskQuestion): Promise<Matcher | undefined> {
    const entry = this.#entries.get(name) ?? { matcher: await this.#open(), accepted: new Int32Array() };
    this.#entries.delete(name);
    this.#entries.set(name, entry);
    this.#evict();
    const { matcher, accepted } = entry;
    const common = commonLength(accepted, tokenIds);
    if (accepted.length > common) matcher.rollBack(accepted.length - common);
    entry.accepted = tokenIds;
    for (const id of tokenIds.subarray(common)) {
      if (matcher.acceptToken(id)) continue;
      this.#entries.delete(name);
      matcher.dispose();
      return undefined;
    }
    return matcher;
  }

  #evict(): void {
    for (const [name, { matcher }] of this.#entries) {
      if (this.#entries.size <= this.#maxMatchers) return;
      this.#entries.delete(name);
      matcher.dispose();
    }
  }
}

function commonLength(one: Int32Array, other: Int32Array): number {
  const length = Math.min(one.length, other.length);
  for (let index = 0; index < length; index++) if (one[index] !== other[index]) return index;
  return length;
}

/** Pieces within which GPT-2 joins bytes to tokens: words, digits, signs and blanks, with a blank before them. */
const PIECES = /'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;
/** Pieces of later vocabularies, where line ends join the signs before them. */
const LATER_PIECES =
  /'(?:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+/gu;
/** A token that only later vocabularies can have. */
const LATER_TOKEN = '",\n';

/** Tokens by their bytes. */
export class TokenTable {
  readonly #vocabulary: EngineVocabulary;
  /** Ids by bytes, each as a character. */
  #ids: ReadonlyMap<string, number> | undefined;

  constructor(vocabulary: EngineVocabulary) {
    this.#vocabulary = vocabulary;
  }

  /** Decodes the bytes of tokens; a part of a character at the end becomes a replacement character. */
  textOf(tokenIds: Int32Array): string {
    const { bytes, offsets } = this.#vocabulary;
    return Buffer.concat(Array.from(tokenIds, (id) => bytes.subarray(offsets[id], offsets[id + 1]))).toString();
  }

  /**
   * Splits a text into tokens, nearly as byte-pair encoding does: within each piece, of all neighbours that form a
   * token the pair with the lowest id is joined first. Vocabularies list tokens in the order of learning.
   *
   * @returns the first tokens of a text that has bytes without a token
   */
  tokenize(text: string): readonly number[] {
    const ids = (this.#ids ??= idsByBytes(this.#vocabulary));
    const pieces = text.match(ids.has(LATER_TOKEN) ? LATER_PIECES : PIECES) ?? [];
    const tokens: number[] = [];
    for (const part of pieces.flatMap((piece) => joinedBytes(piece, ids))) {
      const id = ids.get(part);
      if (id === undefined) break;
      tokens.push(id);
    }
    return tokens;
  }
}

function joinedBytes(piece: string, ids: ReadonlyMap<string, number>): readonly string[] {
  const parts = Array.from(Buffer.from(piece), (byte) => String.fromCharCode(byte));
  for (;;) {
    let [lowest, at] = [Infinity, -1];
    for (let index = 0; index + 1 < parts.length; index++) {
      const id = ids.get(`${parts[index]}${parts[index + 1]}`) ?? Infinity;
      if (id < lowest) [lowest, at] = [id, index];
    }
    if (at < 0) return parts;
    parts.splice(at, 2, `${parts[at]}${parts[at + 1]}`);
  }
}

function idsByBytes({ vocabSize, bytes, offsets }: EngineVocabulary): ReadonlyMap<string, number> {
  const ids = new Map<string, number>();
  const all = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let id = 0; id < vocabSize; id++) {
    const key = all.toString("latin1", offsets[id], offsets[id + 1]);
    if (key !== "" && !ids.has(key)) ids.set(key, id);
  }
  return ids;
}

// Drafts: tokens that a grammar forces or makes probable, with the masks along them.

/** The library's state of a completion, as far as drafts need it. */
export interface DraftMatcher extends TokenMatcher {
  /** Finds the text that has to come next. */
  findJumpForwardString(): string;
  /** Accepts a text as one token. @returns whether the grammar allows it */
  _acceptString(text: string): boolean;
  getNextTokenBitmask(): Promise<Int32Array>;
  /** Whether an end token was accepted. */
  isTerminated(): boolean;
}

/** Facts and tools that drafts need besides a matcher. */
interface DraftTools {
  readonly table: TokenTable;
  readonly eosTokenIds: readonly number[];
  readonly vocabSize: number;
  /** Clock in ms. */
  readonly now: () => number;
}

interface WantedDraft {
  /** Tokens that the asker would draft. */
  readonly asked: Int32Array;
  /** Most tokens of the draft. */
  readonly most: number;
}

const MAX_DRAFT_CHARACTERS = 80;
/** Time after which a draft is not continued: masks of some grammars take long, and the sequence waits. */
const MAX_DRAFT_MS = 10;
/** Two letters, so that free text is known at once; then what JSON has outside strings, with 1 and 0 for all digits. */
const PROBED = Array.from('ab"{}[],:10tfn');

/**
 * Finds the allowed tokens. The draft is the text that the grammar forces, with probable blanks in it where the grammar
 * allows any; if there is none, the beginning of `asked` as far as it is allowed. End tokens are drafted only where
 * nothing else is allowed.
 *
 * @param matcher - after `tokenIds`; it is the same afterwards
 */
export async function draftAllowed(
  matcher: DraftMatcher,
  tokenIds: Int32Array,
  { asked, most }: WantedDraft,
  { table, eosTokenIds, vocabSize, now }: DraftTools,
): Promise<AllowedTokens> {
  const endMs = now() + MAX_DRAFT_MS;
  const maskNow = async (): Promise<Int32Array> =>
    matcher.isTerminated() ? endsMask(eosTokenIds, vocabSize) : matcher.getNextTokenBitmask();
  const masks = [await maskNow()];
  const draft: number[] = [];
  let numForced = 0;
  const text = most === 0 || matcher.isTerminated() ? "" : probableText(matcher, () => table.textOf(tokenIds));
  const probable = text === "" ? asked : table.tokenize(text);
  for (let index = 0; draft.length < most && now() < endMs; index++) {
    const mask = masks.at(-1) as Int32Array;
    const only = onlyToken(mask);
    const next = only ?? (draft.length === index ? probable[index] : undefined);
    if (next === undefined || !allowsToken(mask, next)) break;
    if (only === undefined && eosTokenIds.includes(next)) break;
    // Nothing follows an end token, and the grammar has nothing to say about a second one.
    if (matcher.isTerminated() || !matcher.acceptToken(next)) break;
    if (only !== undefined && numForced === draft.length) numForced++;
    draft.push(next);
    masks.push(await maskNow());
  }
  if (draft.length > 0) matcher.rollBack(draft.length);
  return { draft: Int32Array.from(draft), numForced, masks };
}

/** Finds the text that has to come next, or that probably does where only blanks may differ. */
function probableText(matcher: DraftMatcher, before: () => string): string {
  let text = "";
  let numAccepted = 0;
  let layout: JsonLayout | undefined;
  const accept = (more: string): boolean => {
    if (more === "" || !acceptText(matcher, more)) return false;
    numAccepted++;
    text += more;
    layout?.read(more);
    return true;
  };
  while (text.length < MAX_DRAFT_CHARACTERS) {
    // The library may end a text within a character.
    if (accept(matcher.findJumpForwardString().replace(/\uFFFD+$/u, ""))) continue;
    const next = onlyCharacter(matcher);
    if (next === undefined) break;
    if (!layout) {
      layout = new JsonLayout();
      layout.read(before() + text);
    }
    const blanks = layout.blanksBefore(next);
    if (next === "1") {
      // Any digit may follow, and most vocabularies have no tokens of a blank and digits.
      accept(blanks);
      break;
    }
    if (!accept(blanks + next) && !accept(next)) break;
  }
  if (numAccepted > 0) matcher.rollBack(numAccepted);
  return text;
}

/** Accepts a text as one token. @returns whether the grammar allows it */
export function acceptText(matcher: Pick<DraftMatcher, "_acceptString">, text: string): boolean {
  // oxlint-disable-next-line no-underscore-dangle -- the library's name
  return matcher._acceptString(text);
}

/** Finds the only character of `PROBED` that may come next, where a blank may come as well; "1" for digits. */
function onlyCharacter(matcher: DraftMatcher): string | undefined {
  const mayCome = (character: string): boolean => {
    const isAllowed = acceptText(matcher, character);
    if (isAllowed) matcher.rollBack(1);
    return isAllowed;
  };
  if (!mayCome(" ")) return undefined;
  let only: string | undefined;
  for (const character of PROBED) {
    if (!mayCome(character)) continue;
    const kind = character === "0" ? "1" : character;
    if (only !== undefined && only !== kind) return undefined;
    only = kind;
  }
  return only;
}

function onlyToken(mask: Int32Array): number | undefined {
  let only: number | undefined;
  for (let word = 0; word < mask.length; word++) {
    const bits = mask[word] as number;
    if (bits === 0) continue;
    if (only !== undefined || (bits & (bits - 1)) !== 0) return undefined;
    only = 32 * word + 31 - Math.clz32(bits);
  }
  return only;
}

/** Allows end tokens only: nothing else can follow an end token. */
function endsMask(eosTokenIds: readonly number[], vocabSize: number): Int32Array {
  const mask = new Int32Array(Math.ceil(vocabSize / 32));
  for (const id of eosTokenIds) mask[id >> 5] = (mask[id >> 5] ?? 0) | (1 << (id & 31));
  return mask;
}

// Masks of grammars that bound the lengths of strings. The library tries all tokens for such a mask, which takes it 10
// to 400 ms. Without the bounds a mask takes 20 µs, and the two differ in few tokens, which are tried one by one.

/** Numbers of characters that strings may have room for, most first; below the last, characters are counted. */
const ROOMS = [128, 64, 32, 16];
const LEAST_ROOM = 16;
const [QUOTE, BACKSLASH] = [0x22, 0x5c];

/** Lengths of tokens in characters, and other facts about them that bounded strings depend on. */
export class TokenLengths {
  /** Ids of the tokens that may end or begin a string, ascending. */
  readonly quoted: readonly number[];
  /** Ids of the other tokens, by their number of characters, longest first; an escaped one counts all its parts. */
  readonly #unquoted: readonly { readonly id: number; readonly characters: number; readonly isEscaped: boolean }[];
  readonly #firstBytes: Uint8Array;

  constructor({ vocabSize, bytes, offsets }: EngineVocabulary) {
    const all = Array.from({ length: vocabSize }, (_, id) => {
      const own = bytes.subarray(offsets[id], offsets[id + 1]);
      const characters = own.reduce((count, byte) => count + (isContinuation(byte) ? 0 : 1), 0);
      return { id, characters, isEscaped: own.includes(BACKSLASH), isQuoted: own.includes(QUOTE), first: own[0] ?? 0 };
    });
    this.quoted = all.flatMap(({ id, isQuoted }) => (isQuoted ? id : []));
    this.#unquoted = all.filter(({ isQuoted }) => !isQuoted).toSorted((a, b) => b.characters - a.characters);
    this.#firstBytes = Uint8Array.from(all, ({ first }) => first);
  }

  /** Lists the tokens without quotes that have more characters than a string has room for. */
  *longerThan(room: number): Generator<{ readonly id: number; readonly isEscaped: boolean }> {
    for (const token of this.#unquoted) {
      if (token.characters <= room) return;
      yield token;
    }
  }

  /** Whether the tokens of a mask continue a character that has begun. */
  continuesCharacter(mask: Int32Array): boolean {
    const word = mask.findIndex((bits) => bits !== 0);
    return word >= 0 && isContinuation(this.#firstBytes[32 * word + lowestBit(mask[word] as number)] as number);
  }
}

function isContinuation(byte: number): boolean {
  return (byte & 0xc0) === 0x80;
}

function lowestBit(bits: number): number {
  return 31 - Math.clz32(bits & -bits);
}

/**
 * A matcher of a grammar that bounds the lengths of strings, beside one of the same grammar without these bounds. It
 * answers as `exact` does. Outside of strings the two masks can differ in tokens with quotes; in a string, also in
 * tokens that it has no room for.
 */
export class WideMatcher implements DraftMatcher {
  readonly #exact: DraftMatcher;
  readonly #wide: DraftMatcher;
  readonly #lengths: TokenLengths;
  readonly #hasPatterns: boolean;
  /** Tokens and texts that `wide` has not accepted yet. */
  readonly #behind: (number | string)[] = [];

  /** @param hasPatterns - whether a string's room may depend on its characters */
  constructor(
    { exact, wide }: { readonly exact: DraftMatcher; readonly wide: DraftMatcher },
    lengths: TokenLengths,
    hasPatterns: boolean,
  ) {
    this.#exact = exact;
    this.#wide = wide;
    this.#lengths = lengths;
    this.#hasPatterns = hasPatterns;
  }

  acceptToken(id: number): boolean {
    return this.#accepted(this.#exact.acceptToken(id), id);
  }

  _acceptString(text: string): boolean {
    return this.#accepted(acceptText(this.#exact, text), text);
  }

  rollBack(numTokens: number): void {
    this.#exact.rollBack(numTokens);
    const numBehind = Math.min(numTokens, this.#behind.length);
    this.#behind.length -= numBehind;
    if (numTokens > numBehind) this.#wide.rollBack(numTokens - numBehind);
  }

  findJumpForwardString(): string {
    return this.#exact.findJumpForwardString();
  }

  isTerminated(): boolean {
    return this.#exact.isTerminated();
  }

  async getNextTokenBitmask(): Promise<Int32Array> {
    this.#catchUp();
    const isInString = hasRoom(this.#wide, 1);
    const room = isInString ? roomOf(this.#exact) : 0;
    const mayDependOnCharacters = isInString && this.#hasPatterns && room < LEAST_ROOM;
    if (mayDependOnCharacters || (!isInString && this.#isInEscape())) return this.#exact.getNextTokenBitmask();
    const mask = await this.#wide.getNextTokenBitmask();
    if (this.#lengths.continuesCharacter(mask)) return this.#exact.getNextTokenBitmask();
    for (const id of this.#lengths.quoted) this.#tryToken(id, mask);
    if (!isInString) return mask;
    for (const { id, isEscaped } of this.#lengths.longerThan(room)) {
      if (isEscaped || room >= LEAST_ROOM) this.#tryToken(id, mask);
      else forbid(id, mask);
    }
    return mask;
  }

  dispose(): void {
    this.#exact.dispose();
    this.#wide.dispose();
  }

  #catchUp(): void {
    for (const next of this.#behind.splice(0)) {
      if (typeof next === "number") this.#wide.acceptToken(next);
      else acceptText(this.#wide, next);
    }
  }

  /** Whether an escaped character has begun. */
  #isInEscape(): boolean {
    return ["n", "0", "00", "000", "0000"].some((rest) => {
      const isIn = acceptText(this.#wide, rest + UNUSED_CHARACTER);
      if (isIn) this.#wide.rollBack(1);
      return isIn;
    });
  }

  #tryToken(id: number, mask: Int32Array): void {
    if (!allowsToken(mask, id)) return;
    if (this.#exact.acceptToken(id)) this.#exact.rollBack(1);
    else forbid(id, mask);
  }

  #accepted(isAccepted: boolean, next: number | string): boolean {
    if (isAccepted) this.#behind.push(next);
    return isAccepted;
  }
}

/** Finds a number of characters that the string has room for: one of `ROOMS`, or all of fewer. */
function roomOf(matcher: DraftMatcher): number {
  const large = ROOMS.find((room) => hasRoom(matcher, room));
  if (large !== undefined) return large;
  let length = 0;
  while (acceptText(matcher, UNUSED_CHARACTER)) length++;
  if (length > 0) matcher.rollBack(length);
  return length;
}

function hasRoom(matcher: DraftMatcher, characters: number): boolean {
  const isAccepted = acceptText(matcher, UNUSED_CHARACTER.repeat(characters));
  if (isAccepted) matcher.rollBack(1);
  return isAccepted;
}

function forbid(id: number, mask: Int32Array): void {
  mask[id >> 5] = (mask[id >> 5] as number) & ~(1 << (id & 31));
}
