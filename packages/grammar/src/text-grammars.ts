// Grammars of texts: lists of choices, regular expressions, and grammars that callers write.

import { describeValue } from "@readme-moe/core";
import type { Budget } from "./grammar-source.ts";
import { leastLiteralLength, literal, plainCharacter } from "./schema/ebnf/code-points.ts";
import { PatternError, PatternWriter } from "./schema/ebnf/pattern-parser.ts";

const MAX_SHOWN = 80;

/**
 * Writes a grammar of exactly these texts.
 *
 * @throws {TypeError} when `texts` is empty or holds something else than texts
 * @throws {RangeError} when they are too long together
 */
export function choiceGrammar(texts: readonly string[], budget: Budget): string {
  if (!Array.isArray(texts) || texts.length === 0) {
    throw new TypeError(`Expected \`texts\` to be a list of texts, got ${describeValue(texts)}`);
  }
  for (const text of texts as readonly unknown[]) {
    if (typeof text === "string") budget.write(leastLiteralLength(text));
    if (typeof text === "string" && text !== "" && !/\p{Surrogate}/u.test(text)) continue;
    throw new TypeError(`Expected each of \`texts\` to be a text, got ${describeValue(text)}`);
  }
  return `root ::= ${texts.map(literal).join(" | ")}`;
}

/**
 * Writes the grammar of a regular expression. @throws {TypeError} naming what is not supported; {RangeError} when
 * it is too long
 */
export function regexGrammar(pattern: string, budget: Budget): string {
  try {
    return `root ::= ${new PatternWriter(plainCharacter, budget).write(pattern)}`;
  } catch (error) {
    if (!(error instanceof PatternError)) throw error;
    throw new TypeError(`Expected a supported \`pattern\`, got one with ${error.message}`, { cause: error });
  }
}

/**
 * Refuses classes with characters outside ASCII, which the library gets wrong without an error. `[^\x00-\x7f]` is
 * right.
 *
 * @throws {TypeError} naming the class
 */
export function checkGrammar(ebnf: string): void {
  for (const found of classesOf(ebnf)) {
    const numbers = Array.from(found.matchAll(/\\(?:x([0-9a-fA-F]{1,2})|u\{?([0-9a-fA-F]{1,8})|U([0-9a-fA-F]{1,8}))/g));
    const isBeyond = numbers.some(([, x, u, long]) => Number.parseInt(x ?? u ?? long ?? "0", 16) > 0x7f);
    // oxlint-disable-next-line no-control-regex -- all of ASCII
    if (!isBeyond && /^[\x00-\x7f]*$/.test(found)) continue;
    const shown = found.length > MAX_SHOWN ? `${found.slice(0, MAX_SHOWN)}…` : found;
    throw new TypeError(`Expected classes of ASCII characters in the grammar, got ${shown}; write others as texts`);
  }
}

/** Finds the classes of a grammar in one pass, which skips texts and comments. */
function* classesOf(ebnf: string): Generator<string> {
  for (let at = 0; at < ebnf.length; at++) {
    const start = at;
    switch (ebnf.charAt(at)) {
      case "#":
        while (at < ebnf.length && ebnf[at] !== "\n") at++;
        break;
      case '"':
        // The library refuses a text without an end.
        for (at++; at < ebnf.length && ebnf[at] !== '"' && ebnf[at] !== "\n"; at++) if (ebnf[at] === "\\") at++;
        break;
      case "[":
        for (at++; at < ebnf.length && ebnf[at] !== "]"; at++) if (ebnf[at] === "\\") at++;
        yield ebnf.slice(start, at + 1);
        break;
      default:
        break;
    }
  }
}
