// Constraints as plain JSON data, from which another process makes the same ones.

import { checkAnswerFormat, type AnswerFormat } from "@readme-moe/core";
import type { JsonSchema } from "./schema/honoured-schema.ts";
import type { TaggedAnswers } from "./tagged-answers.ts";

/** Source of what `Grammars` binds answers to: the method's arguments. */
export type AnswerSource =
  | { readonly kind: "json"; readonly schema: JsonSchema; readonly maxWhitespace: number }
  | { readonly kind: "grammar"; readonly ebnf: string; readonly root: string }
  | { readonly kind: "regex"; readonly pattern: string }
  | { readonly kind: "choice"; readonly texts: readonly string[] }
  | { readonly kind: "tagged"; readonly answers: TaggedAnswers };

/** Copies a source as JSON does, so that later changes of a caller's objects do not reach it. */
export function plainCopy(source: AnswerSource): AnswerSource {
  return JSON.parse(JSON.stringify(source)) as AnswerSource;
}

/** Most blanks in a row between two parts of JSON, where nothing else is asked for. */
export const DEFAULT_MAX_WHITESPACE = 16;

/**
 * Describes a format as the source of the constraint that `Grammars.format` makes.
 * @throws {TypeError} on a wrong shape
 */
export function formatSource(format: AnswerFormat): AnswerSource {
  checkAnswerFormat(format);
  switch (format.type) {
    case "json_object":
      return { kind: "json", schema: { type: "object" }, maxWhitespace: DEFAULT_MAX_WHITESPACE };
    case "json_schema":
      return { kind: "json", schema: format.schema, maxWhitespace: DEFAULT_MAX_WHITESPACE };
    case "regex":
      return { kind: "regex", pattern: format.pattern };
    case "choice":
      return { kind: "choice", texts: format.choices };
    case "grammar":
      return { kind: "grammar", ebnf: format.grammar, root: format.root ?? "root" };
    default:
      throw new TypeError(`Unknown format: ${String(format satisfies never)}`);
  }
}
