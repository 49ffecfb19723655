// Searches of patterns in texts, by JavaScript's own expressions or by those of files.

import type { PatternError } from "@readme-moe/core";
import { type Finder, type Match, Pattern, StepLimit } from "../patterns/pattern.ts";

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
export function* matchesOf(pattern: SearchPattern, text: string): Generator<Match | undefined, void> {
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
