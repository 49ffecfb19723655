import { plainCharacter } from "./schema/ebnf/code-points.ts";
import { PatternError, patternGrammar } from "./schema/ebnf/pattern-parser.ts";

/** @throws {TypeError} naming what is not supported */
export function regexGrammar(pattern: string): string {
  try {
    return `root ::= ${patternGrammar(pattern, plainCharacter)}`;
  } catch (error) {
    if (!(error instanceof PatternError)) throw error;
    throw new TypeError(`Expected a supported \`pattern\`, got one with ${error.message}`, { cause: error });
  }
}
