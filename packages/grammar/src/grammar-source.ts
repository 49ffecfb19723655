import { createHash } from "node:crypto";

/** What a constraint is compiled from; plain data, so that it can go to a thread. */
export type GrammarSource =
  | { readonly kind: "ebnf"; readonly text: string; readonly root: string }
  /** JSON of the library's structural tags: free text, regular expressions, and schemas between fixed texts. */
  | { readonly kind: "tags"; readonly format: string };

/** A source, and a key that is the same for the same source and for no other. */
export interface KeyedSource {
  readonly key: string;
  readonly source: GrammarSource;
}

export const MAX_SOURCE_CHARACTERS = 262_144;

/** @throws {RangeError} when it is too long */
export function keyedSource(source: GrammarSource): KeyedSource {
  const text = JSON.stringify(source);
  if (text.length > MAX_SOURCE_CHARACTERS) throw sourceTooLong(text.length);
  return { source, key: createHash("sha256").update(text).digest("base64") };
}

/** @param length - where it is known */
export function sourceTooLong(length?: number): RangeError {
  const got = length === undefined ? "more" : String(length);
  return new RangeError(`Expected a grammar of at most ${MAX_SOURCE_CHARACTERS} characters, got ${got}`);
}
