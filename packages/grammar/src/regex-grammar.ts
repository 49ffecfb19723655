import type { Budget } from "./schema/budget.ts";
import { plainCharacter } from "./schema/ebnf/code-points.ts";
import { PatternError, PatternWriter } from "./schema/ebnf/pattern-parser.ts";

/** @throws {TypeError} naming what is not supported; {RangeError} when it is too long */
export function regexGrammar(pattern: string, budget: Budget): string {
  try {
    return `root ::= ${new PatternWriter(plainCharacter, budget).write(pattern)}`;
  } catch (error) {
    if (!(error instanceof PatternError)) throw error;
    throw new TypeError(`Expected a supported \`pattern\`, got one with ${error.message}`, { cause: error });
  }
}
