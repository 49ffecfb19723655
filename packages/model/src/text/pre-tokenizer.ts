// Pre-tokenization, with pauses: cuts a text into the words whose characters are merged.

import { CHUNK_LENGTH, mapChunks } from "./pausing.ts";
import type { PatternError } from "@readme-moe/core";
import { type Finder, type Match, Pattern, StepLimit } from "../patterns/pattern.ts";

/** One step of a normalizer. */
export interface NormalizerStep {
  readonly apply: (text: string) => string | Generator<void, string>;
  /** Largest factor by which the step lengthens a text. */
  readonly grows: number;
}

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

// Searches of patterns in texts, by JavaScript's own expressions or by those of files.

// Real patterns take some ten steps for a character.
const MAX_STEPS_PER_CHARACTER = 64;
const MAX_STEPS = 512;
const MAX_PARTS = 4096;

/** An expression that is searched for: one that is known to take linear time, or one of a file. */
export type SearchPattern = RegExp | FilePattern;

/** An expression of a file, as the library rewrites it for JavaScript. */
export class FilePattern {
  readonly #pattern: Pattern;
  readonly #problem: (cause: PatternError) => Error;

  /**
   * @param problem - makes the error for a search that takes too many steps
   * @throws {PatternError} when a part of it is not read here, or when it is too large
   */
  constructor(source: string, problem: (cause: PatternError) => Error) {
    this.#pattern = new Pattern(source, { maxLength: MAX_PARTS, hasPlaces: false });
    this.#problem = problem;
  }

  get leastLength(): number {
    return this.#pattern.leastLength;
  }

  finder(text: string): Finder {
    const maxSteps = MAX_STEPS + MAX_STEPS_PER_CHARACTER * text.length;
    return this.#pattern.finder(text, new StepLimit(maxSteps, this.#problem));
  }
}

/** Returns the largest factor by which a text gets longer when its matches become `to`. */
export function growthOf(pattern: SearchPattern, to: string): number {
  const least = pattern instanceof RegExp ? 1 : pattern.leastLength;
  return least === 0 ? 1 + to.length : Math.max(1, to.length / least);
}

/** Finds all matches, one after another. Yields `undefined` for a pause. */
function* matchesOf(pattern: SearchPattern, text: string): Generator<Match | undefined, void> {
  const finder = pattern instanceof RegExp ? pattern : pattern.finder(text);
  for (let from = 0; from <= text.length;) {
    // Another text may use the same pattern between two matches.
    finder.lastIndex = from;
    const match = finder.exec(text);
    if (match === null) return;
    yield match;
    from = match ? nextStart(text, match) : finder.lastIndex;
  }
}

/** Returns the place where the search behind a match begins. */
function nextStart(text: string, { 0: found, index }: Match): number {
  const end = index + found.length;
  return found === "" ? end + ((text.codePointAt(end) ?? 0) > 0xffff ? 2 : 1) : end;
}

/** Replaces every match. A match may depend on all of the text, so it is not cut into chunks. */
export function* replaceMatches(pattern: SearchPattern, text: string, to: string): Generator<void, string> {
  const parts: string[] = [];
  let end = 0;
  for (const match of matchesOf(pattern, text)) {
    if (match) {
      parts.push(text.slice(end, match.index), to);
      end = match.index + match[0].length;
    } else yield;
  }
  return parts.join("") + text.slice(end);
}
