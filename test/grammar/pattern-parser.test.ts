// Grammars of patterns, compared with the regular expressions of JavaScript.

import { expect, test } from "vitest";
import { PatternError } from "@readme-moe/core";
import { Budget } from "../../packages/grammar/src/grammar-source.ts";
import type { CodePoints } from "../../packages/grammar/src/schema/ebnf/code-points.ts";
import { PatternWriter } from "../../packages/grammar/src/schema/ebnf/pattern-parser.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

const point = (code: number): string => String.raw`\u{${code.toString(16)}}`;

function classOf(set: CodePoints): string | undefined {
  if (set.length === 0) return undefined;
  return `[${set.map(([from, to]) => `${point(from)}-${point(to)}`).join("")}]`;
}

const write = (pattern: string): string => new PatternWriter(classOf, new Budget()).write(pattern);

/** Reads the grammar of a pattern as a regular expression again. */
function expressionOf(pattern: string): RegExp {
  const source = write(pattern).replaceAll('""', "(?:)").replaceAll(" ", "");
  return new RegExp(`^${source}$`, "u");
}

test.each([
  ["abc", "abc"],
  ["^abc$", "abc"],
  ["a|b\\.c", "b.c"],
  ["^a|b$", "b"],
  ["a$|^b$", "b"],
  ["|a", ""],
  ["(?:ab|c)*d", "abcd"],
  ["((a)|b)+", "ab"],
  ["a?b*c+", "abbc"],
  ["(?<name>a|b)c", "bc"],
  ["a??b*?c+?", "cc"],
  ["a{2}", "aa"],
  ["a{2,}b", "aaaab"],
  ["a{0,2}b{1,3}", "abbb"],
  ["[a-c]", "c"],
  ["[^a-c]", "d"],
  ["[a-]", "-"],
  ["[-a]", "-"],
  ["[a-a]", "a"],
  ["[a\\-c]", "-"],
  ["[\\]a]", "]"],
  ["[a-c1-3_]", "3"],
  ["[^\\d\\s]", "_"],
  ["[\\w.]", "."],
  ["\\d\\D", "1a"],
  ["\\w\\W", "_."],
  ["\\s\\S", "\u2028a"],
  ["a.c", "a🙂c"],
  ["\\x41\\u0042", "AB"],
  ["[\\x41-\\u0043]", "B"],
  ["[\\b]", "\b"],
  ["\\t\\n\\v\\f\\r", "\t\n\v\f\r"],
  ["\\(\\)\\[\\]\\{\\}\\*\\+\\?\\^\\$\\|\\/", "()[]{}*+?^$|/"],
  ["é中🙂", "é中🙂"],
  ["[🙂-🙃]", "🙃"],
  ["", ""],
])("%j accepts %j, and the same texts as in JavaScript", (pattern, accepted) => {
  const [ours, theirs] = [expressionOf(pattern), new RegExp(`^(?:${pattern})$`, "u")];
  const random = seededRandom(pattern.length);
  const alphabet = Array.from(`${accepted}abcd123-_. ]\n\u2028AB\b\té🙂🙃`);
  expect([ours.test(accepted), theirs.test(accepted)]).toEqual([true, true]);
  for (let round = 0; round < 1000; round++) {
    const length = randomInteger(random, 5);
    const text = Array.from({ length }, () => alphabet[randomInteger(random, alphabet.length)] ?? "").join("");
    for (const one of [text, accepted + text, text + accepted]) {
      expect(ours.test(one), JSON.stringify(one)).toBe(theirs.test(one));
    }
  }
});

test("braces and brackets that end nothing stand for themselves", () => {
  expect(expressionOf("a]b}").test("a]b}")).toBe(true);
});

test.each([
  ["[c-a]", "a range that runs backwards"],
  ["[\\d-z]", "a range between classes"],
  ["[a-\\w]", "a range between classes"],
  ["[a", "an end that comes too early"],
  ["a\\", "an end that comes too early"],
  ["(a", "a group without an end"],
  ["a)", "a `)` too many"],
  ["(?=a)", "a look ahead or behind"],
  ["(?", "a group with `?`"],
  ["*a", "`*` here"],
  ["a**", "`*` here"],
  ["a$b", "`$` here"],
  ["(a$)?", "`$` here"],
  ["(a$|b)", "`$` here"],
  ["(^a)?", "`^` here"],
  ["a^", "`^` here"],
  ["a{", "`{` here"],
  ["a{x}", "`{` here"],
  ["a{2,1}", "the counts of `{2,1}` in the wrong order"],
  ["a{513}", "more than 512 repetitions"],
  ["a{1,513}", "more than 512 repetitions"],
  ["\\u004", "`\\u` or `\\x` without a number"],
  ["\\xg0", "`\\u` or `\\x` without a number"],
  ["\\p", "`\\p`"],
  ["\\1", "`\\1`"],
  ["[^\\s\\S]", "a class without a character that can be written"],
  ["(".repeat(33) + ")".repeat(33), "more than 32 groups in each other"],
])("%j is refused", (pattern, message) => {
  expect(() => write(pattern)).toThrow(new PatternError(message));
});

test("an alternative without parts is an empty text", () => {
  expect([write(""), write("|"), write("()")]).toEqual(['("")', '("" | "")', '((""))']);
});

test("limits of a pattern are exact", () => {
  expect(() => write("a{512}")).not.toThrow();
  expect(() => write("(".repeat(32) + ")".repeat(32))).not.toThrow();
  expect(() => write("a".repeat(16_385))).toThrow("Expected a pattern of at most 16384 characters, got 16385");
});
