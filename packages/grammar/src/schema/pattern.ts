import { describeValue } from "@readme-moe/core";
import { PatternError, type PatternWriter } from "./ebnf/pattern-parser.ts";
import { refused, type SchemaPath } from "./schema-error.ts";

/**
 * The grammar of strings that a pattern matches as a whole: those where it matches a part only are left out.
 * @throws {TypeError} naming what is not supported
 */
export function honouredPattern(pattern: unknown, path: SchemaPath, patterns: PatternWriter): string {
  if (typeof pattern !== "string") throw refused(path, `has \`pattern\` ${describeValue(pattern)}; expected a text`);
  try {
    return patterns.write(pattern);
  } catch (error) {
    if (!(error instanceof PatternError)) throw error;
    throw refused(path, `has \`pattern\` with ${error.message}, which is not supported`);
  }
}
