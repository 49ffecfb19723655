import { describeValue } from "@readme-moe/core";
import type { Budget } from "./schema/budget.ts";
import { literal, leastLiteralLength } from "./schema/ebnf/code-points.ts";

/**
 * A grammar of just these texts.
 * @throws {TypeError} when they are no texts, or none
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
