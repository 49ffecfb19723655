import { createHash } from "node:crypto";

/** One grammar in the library's notation. */
export interface GrammarText {
  readonly text: string;
  /** Rule to start from. */
  readonly root: string;
}

/** Source of a constraint, as plain data that a thread can receive. */
export interface GrammarSource extends GrammarText {
  readonly wide?: WideGrammar | undefined;
  /** Text that matchers have read before the answer. @default none */
  readonly before?: string | undefined;
}

/** The same grammar without bounds on the lengths of strings, for faster masks; see `WideMatcher`. */
interface WideGrammar {
  readonly grammar: GrammarText;
  /** Whether strings have patterns, so that a string's room may depend on its characters. */
  readonly hasPatterns: boolean;
}

/** A source with a key that no other source has. */
export interface KeyedSource {
  readonly key: string;
  readonly source: GrammarSource;
}

export const MAX_SOURCE_CHARACTERS = 262_144;
const MAX_STEPS = 250_000;

/** @throws {RangeError} when the source is too long */
export function keyedSource(source: GrammarSource): KeyedSource {
  const text = JSON.stringify(source);
  if (text.length > MAX_SOURCE_CHARACTERS) throw sourceTooLong(text.length);
  return { source, key: createHash("sha256").update(text).digest("base64") };
}

/** Makes the error for a source of `length` characters, or of an unknown length. */
export function sourceTooLong(length?: number): RangeError {
  const got = length === undefined ? "more" : String(length);
  return new RangeError(`Expected a grammar of at most ${MAX_SOURCE_CHARACTERS} characters, got ${got}`);
}

/** Bounds the cost of turning one request into a grammar, which runs on the caller's event loop. */
export class Budget {
  #steps = MAX_STEPS;
  #characters = MAX_SOURCE_CHARACTERS;

  /**
   * Spends steps of about 100 ns each.
   *
   * @throws {RangeError} when there are none left
   */
  spend(steps: number): void {
    this.#steps -= steps;
    if (this.#steps >= 0) return;
    throw new RangeError(`Expected a schema or grammar that is read in at most ${MAX_STEPS} steps; simplify it`);
  }

  /**
   * Spends characters of the grammar; to be called before they are written.
   *
   * @throws {RangeError} when the grammar becomes too long
   */
  write(characters: number): void {
    this.#characters -= characters;
    if (this.#characters < 0) throw sourceTooLong();
  }
}
