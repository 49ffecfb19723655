// Expressions from files find what JavaScript's own find, in a number of steps that grows with the text alone.

import { PatternError } from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import { Pattern, StepLimit } from "../../packages/model/src/patterns/pattern.ts";
import { DEFAULT_PATTERNS, GPT2_PATTERN, TEKKEN_PATTERN } from "../../packages/model/src/text/known-patterns.ts";
import * as fc from "../support/fast-check.ts";
import { trickyTexts } from "../support/tokenizer-definitions.ts";

const OPTIONS = { maxLength: 4096, hasPlaces: false };

/** Finds all matches, and the steps that they take. */
function matchesOf(source: string, text: string): { readonly found: [number, string][]; readonly steps: number } {
  const limit = new StepLimit(2 ** 30);
  const finder = new Pattern(source, OPTIONS).finder(text, limit);
  const found: [number, string][] = [];
  for (let match = finder.exec(text); match !== null; match = finder.exec(text)) {
    if (match === undefined) continue;
    const { 0: piece, index } = match;
    found.push([index, piece]);
    const end = index + piece.length;
    finder.lastIndex = piece === "" ? end + ((text.codePointAt(end) ?? 0) > 0xffff ? 2 : 1) : end;
    if (finder.lastIndex > text.length) break;
  }
  return { found, steps: 2 ** 30 - limit.left };
}

/** Does the same with JavaScript's own. V8 finds an empty match also inside a character of two units. */
function expected(source: string, text: string): [number, string][] {
  return Array.from(text.matchAll(new RegExp(source, "gu")), ({ 0: piece, index }): [number, string] => [
    index,
    piece,
  ]).filter(([index]) => !/^[\udc00-\udfff]/.test(text.slice(index)));
}

/** Tells whether a repeated part may match nothing: JavaScript and the reference differ there themselves. */
function matchesNothing(source: string): boolean {
  return !isAccepted(source) || new RegExp(`^(?:${source})$`, "u").test("");
}

const atoms = fc.constantFrom(
  "a",
  "b",
  "😀",
  ".",
  "[ab]",
  "[^a]",
  String.raw`\p{L}`,
  String.raw`\u{1f600}`,
  String.raw`\ud83d\ude00`,
  String.raw`\x61`,
  String.raw`[\]\u{1f600}-\u{1f602}]`,
  String.raw`\s`,
);
const quantifiers = fc.constantFrom("", "", "", "*", "+", "?", "*?", "+?", "??", "{2}", "{1,3}", "{0,2}?", "{2,}");
const { source: sources } = fc.letrec<{ source: string; piece: string }>((tie) => ({
  source: fc
    .array(fc.array(tie("piece"), { maxLength: 4 }), { minLength: 1, maxLength: 3 })
    .map((options) => options.map((pieces) => pieces.join("")).join("|")),
  piece: fc.oneof(
    { maxDepth: 3, withCrossShrink: true },
    fc.tuple(atoms, quantifiers).map((parts) => parts.join("")),
    fc
      .tuple(fc.constantFrom("(?:", "(", "(?<n>"), tie("source"), quantifiers)
      .map(([open, inner, quantifier]) => `${open}${inner})${matchesNothing(inner) ? "" : quantifier}`),
    fc.tuple(fc.constantFrom("(?=", "(?!", "(?<=", "(?<!"), tie("source")).map(([open, inner]) => `${open}${inner})`),
  ),
}));
const texts = fc
  .array(fc.constantFrom("a", "b", "c", " ", "😀", "\n"), { maxLength: 12 })
  .map((parts) => parts.join(""));

/** Names a group in one place only. */
function isAccepted(source: string): boolean {
  try {
    return new RegExp(source, "gu").source !== "";
  } catch {
    return false;
  }
}

describe("expressions of tokenizers", () => {
  test("find the matches that JavaScript's own find", () => {
    let count = 0;
    fc.assert(
      fc.property(sources, texts, (source, text) => {
        fc.pre(isAccepted(source));
        const written = new RegExp(source, "gu").source.replaceAll(".", String.raw`[^\n]`);
        count += 1;
        expect(matchesOf(written, text).found).toStrictEqual(expected(written, text));
      }),
      { numRuns: 500 },
    );
    expect(count).toBeGreaterThan(200);
  });

  test("find in all kinds of text what real tokenizers cut", () => {
    const deepSeek = [
      String.raw`[!"#$%&'()*+,\-.\/:;<=>?@\[\\\]^_\x60{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
      String.raw`\s?\p{L}+|\s?\p{P}+|[一-龥ࠀ-一가-퟿]+|\p{N}`,
    ];
    for (const source of [GPT2_PATTERN, TEKKEN_PATTERN, ...DEFAULT_PATTERNS, ...deepSeek]) {
      for (const text of trickyTexts(200)) {
        const { found, steps } = matchesOf(source, text);
        expect([source, found]).toStrictEqual([source, expected(source, text)]);
        // Half of what a text may take.
        expect(steps).toBeLessThan(256 + 32 * text.length);
      }
    }
  });

  test("take steps that grow with the text, not with its square, where JavaScript's own take years", () => {
    const hostile: readonly (readonly [string, string])[] = [
      ["(?:x+x+)+y", "x"],
      ["(?:(?:(?:x*)*)*)*y", "x"],
      ["(?:x|xx|xxx)*y|x", "x"],
      ["(?:x*)+y|x", "xx "],
      ["x*x*x*x*x*y|x", "x"],
      ["(?:x?){30}x{30}y|x", "x"],
      [String.raw`\s+(?:(?=\n)|(?![\s\S]))`, " "],
      [String.raw`(?:[ab]*[bc]*)+\d|[abc]`, "abc"],
      ["(?<=x)(?:x+)+y", "x"],
      [`(?:${"x|".repeat(300)}x)${"x".repeat(20)}y|x`, "x"],
    ];
    for (const [source, unit] of hostile) {
      const [short, long] = [500, 2000].map((length) => matchesOf(source, unit.repeat(length)).steps);
      expect([source, (long ?? 0) / (short ?? 1) < 4.5]).toStrictEqual([source, true]);
    }
  });

  test("pause in a long search, and go on where they were", () => {
    const text = `${"x".repeat(20_000)}y`;
    const finder = new Pattern("(?:x+x+)+y|z", OPTIONS).finder(`${"x".repeat(50_000)} ${text}`, new StepLimit(2 ** 30));
    let pauses = 0;
    let match = finder.exec(text);
    for (; match === undefined; match = finder.exec(text)) pauses += 1;
    expect(match).toStrictEqual({ 0: text, index: 50_001 });
    expect(pauses).toBeGreaterThan(2);
  });

  test("end at a limit of steps, of which looks take many", () => {
    const pattern = new Pattern("(?:(?!x*y)x)*z", OPTIONS);
    const text = "x".repeat(2000);
    const limit = new StepLimit(100_000, ({ message }) => new RangeError(message));
    expect(() => pattern.finder(text, limit).exec(text)).toThrow(new RangeError("takes more than 100000 steps"));
  });

  test("end before they fill the memory", () => {
    const text = "x".repeat(300_000);
    const ways = new Pattern(`(?:${"y??".repeat(30)}x)*`, OPTIONS);
    expect(() => ways.finder(text, new StepLimit(2 ** 30)).exec(text)).toThrow("has too many ways to match");
    const places = new Pattern(`(?:x|y${"z?".repeat(2000)})+?q`, { ...OPTIONS, maxLength: 2 ** 14 });
    expect(() => places.finder(text, new StepLimit(2 ** 40)).exec(text)).toThrow("fails in too many places");
    const word = new Pattern(String.raw`\p{L}+`, OPTIONS);
    const long = "x".repeat(4 << 20);
    expect(word.finder(long, new StepLimit(2 ** 30)).exec(long)?.[0]).toHaveLength(long.length);
  });

  test("are refused when they are too large, or have parts that are not read", () => {
    const problems: readonly (readonly [string, string])[] = [
      ["(?:x{1000}){1000}", "has more than 4096 parts"],
      ["(?:(?:x{0,99}){0,99}){0,99}", "has more than 4096 parts"],
      [String.raw`(x)\1`, "has `\\1`"],
      [String.raw`(?<n>x)\k<n>`, "has `\\k`"],
      [String.raw`\bx`, "has `\\b`"],
      ["^x", "has `^`"],
      ["x$", "has `$`"],
      ["(?m:x)", "has a group with `?m`"],
    ];
    for (const [source, problem] of problems) {
      expect(() => new Pattern(source, OPTIONS)).toThrow(new PatternError(`${problem}, which is not supported`));
    }
  });
});
