// Masks of grammars that bound the lengths of strings. The library tries all tokens for such a mask, which takes it 10
// to 400 ms. Without the bounds a mask takes 20 µs, and the two differ in few tokens, which are tried one by one.

import { allowsToken, type EngineVocabulary } from "@readme-moe/core";
import { UNUSED_CHARACTER } from "../schema/without-lengths.ts";
import { acceptText, type DraftMatcher } from "./drafts.ts";

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
