// Pre-tokenization, with pauses: cuts a text into the words whose characters are merged.

import { CHUNK_LENGTH, mapChunks } from "./pausing.ts";
import { matchesOf, type SearchPattern } from "./search-pattern.ts";

/** Cuts at each match. */
export interface SplitStep {
  readonly type: "split";
  readonly pattern: SearchPattern;
  /** Whether the text between the matches is dropped. */
  readonly dropsRest: boolean;
  /** Whether a match ends the piece before it; a match behind another one is a piece of its own. */
  readonly endsPieces: boolean;
}

/** One step of a pre-tokenizer, applied to each piece that the step before it made. */
export type PreTokenizerStep =
  | SplitStep
  /** Rewrites a text character by character. */
  | { readonly type: "map"; readonly map: (text: string) => string }
  /** Puts `prefix` before a piece that does not begin with it. */
  | { readonly type: "prefix"; readonly prefix: string; readonly isFirstOnly: boolean };

/** Character that stands for each byte in GPT-2's byte-level alphabet, which stores vocabularies of bytes as text. */
export const CHARACTER_OF_BYTE: readonly string[] = byteAlphabet();

/** Byte that each character of the byte-level alphabet stands for. */
export const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = new Map(
  CHARACTER_OF_BYTE.map((character, byte) => [character, byte]),
);

const MAX_JOINED_LENGTH = 64;
const UNIT_OF_BYTE = Uint16Array.from(CHARACTER_OF_BYTE, (character) => character.charCodeAt(0));

/** Writes each byte of a text's UTF-8 as its character of the byte-level alphabet. */
export function toByteAlphabet(text: string): string {
  let mapped = "";
  if (text.length <= MAX_JOINED_LENGTH) {
    for (const byte of Buffer.from(text)) mapped += CHARACTER_OF_BYTE[byte] ?? "";
    return mapped;
  }
  // Joining character by character leaves much garbage.
  const units = Uint16Array.from(Buffer.from(text), (byte) => UNIT_OF_BYTE[byte] ?? 0);
  return Buffer.from(units.buffer).toString("utf16le");
}

/** Maps bytes that are visible in Latin-1 to themselves, and the others, in order, to U+0100 and up. */
function byteAlphabet(): string[] {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isVisible(byte) ? byte : next++));
}

function isVisible(byte: number): boolean {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

/**
 * Cuts a text into words.
 * @param isFirst - whether the text begins what is encoded
 * @returns yields each word, a long one in parts, and `undefined` where the caller may pause
 */
export function* wordsOf(
  steps: readonly PreTokenizerStep[],
  text: string,
  isFirst: boolean,
): Generator<string | readonly string[] | undefined, void> {
  const [step, ...rest] = steps;
  if (step === undefined) {
    yield text;
    return;
  }
  if (step.type === "split") {
    for (const piece of step.endsPieces ? endedPiecesOf(step.pattern, text) : piecesOf(step, text)) {
      if (rest.length === 0 || piece === undefined) yield piece;
      else yield* wordsOf(rest, piece, isFirst);
    }
    return;
  }
  if (step.type === "prefix") {
    const isPut = !text.startsWith(step.prefix) && (isFirst || !step.isFirstOnly);
    yield* wordsOf(rest, isPut ? step.prefix + text : text, isFirst);
    return;
  }
  if (text.length <= CHUNK_LENGTH) {
    const mapped = step.map(text);
    if (rest.length === 0) yield mapped;
    else yield* wordsOf(rest, mapped, isFirst);
    return;
  }
  const parts = yield* pausing(mapChunks(text, step.map));
  if (rest.length === 0) yield parts;
  else yield* wordsOf(rest, parts.join(""), isFirst);
}

/** Finds pieces one at a time, since a long text has many. */
function* piecesOf({ pattern, dropsRest }: SplitStep, text: string): Generator<string | undefined, void> {
  let end = 0;
  for (const match of matchesOf(pattern, text)) {
    if (!match) {
      yield undefined;
      continue;
    }
    const { 0: piece, index } = match;
    if (end < index && !dropsRest) yield text.slice(end, index);
    if (piece !== "") yield piece;
    end = index + piece.length;
  }
  if (end < text.length && !dropsRest) yield text.slice(end);
}

/** Finds pieces that matches end. */
function* endedPiecesOf(pattern: SearchPattern, text: string): Generator<string | undefined, void> {
  let start = 0;
  for (const match of matchesOf(pattern, text)) {
    if (!match) {
      yield undefined;
      continue;
    }
    const end = match.index + match[0].length;
    if (end > start) yield text.slice(start, end);
    start = end;
  }
  if (start < text.length) yield text.slice(start);
}

function* pausing<Result>(work: Generator<void, Result>): Generator<undefined, Result> {
  for (;;) {
    const { done, value } = work.next();
    if (done === true) return value;
    yield undefined;
  }
}
