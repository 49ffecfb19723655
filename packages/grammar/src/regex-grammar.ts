import type { Budget } from "./schema/budget.ts";
import { plainCharacter } from "./schema/ebnf/code-points.ts";
import { PatternError, patternGrammar } from "./schema/ebnf/pattern-parser.ts";

/** @throws {TypeError} naming what is not supported; {RangeError} when it is too long */
export function regexGrammar(pattern: string, budget: Budget): string {
  try {
    return `root ::= ${patternGrammar(pattern, plainCharacter, budget)}`;
  } catch (error) {
    if (!(error instanceof PatternError)) throw error;
    throw new TypeError(`Expected a supported \`pattern\`, got one with ${error.message}`, { cause: error });
  }
}
