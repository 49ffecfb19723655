// Definitions of tokenizers that would hold up the process or fill its memory.

import { describe, expect, it } from "vitest";
import type { JsonObject } from "../../packages/model/src/files/read-file.ts";
import { Tokenizer } from "../../packages/model/src/text/tokenizer.ts";
import { byteLevelDefinition, expectThrownReadMeError } from "../support/tokenizer-definitions.ts";

/** A tokenizer whose tokens are single bytes. */
function tokenizer(parts: JsonObject): Tokenizer {
  return new Tokenizer({ path: "hostile.json", tokenizer: byteLevelDefinition([], parts) });
}

function expectRefused(parts: JsonObject, ...problem: string[]): void {
  expectThrownReadMeError(() => tokenizer(parts), "ERR_MODEL_UNSUPPORTED", "hostile.json", ...problem);
}

function split(regex: string, behavior = "Isolated"): JsonObject {
  const step = { type: "Split", pattern: { Regex: regex }, behavior, invert: behavior === "Removed" };
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, use_regex: false };
  return { pre_tokenizer: { type: "Sequence", pretokenizers: [step, byteLevel] } };
}

function replace(pattern: JsonObject, content: string): JsonObject {
  return { type: "Replace", pattern, content };
}

/** Expressions that JavaScript tries for years, or with the square of the text's length, and the end of replaced text. */
const HOSTILE = [
  ["(x+x+)+y", " y"],
  ["((x*)*)*y", " z"],
  ["(x|xx)+y", " y"],
  ["(x|x|x)*y", " z"],
  ["x*x*x*x*x*y", " z"],
  ["(?:x+)+y|q", " y"],
  [String.raw`(\w|\d)+\z|q{2}`, " z"],
  [String.raw`^(x+)+$|[^x]`, "zz"],
  ["(?i:X+)+y", " y"],
  ["(?<=x)(x+)+y", " y"],
] as const;
const TEXT = "x".repeat(3000);

describe("an expression of a file", () => {
  it.each(HOSTILE)("cuts a long text with %s", (regex) => {
    for (const behavior of ["Isolated", "MergedWithPrevious"]) {
      expect([...tokenizer(split(regex, behavior)).encode(TEXT)]).toStrictEqual([...Buffer.from(TEXT)]);
    }
  });

  it.each(HOSTILE)("replaces in a long text with %s", (regex, end) => {
    const replacing = tokenizer({ normalizer: replace({ Regex: regex }, "z") });
    expect(replacing.decode(replacing.encode(`${TEXT} y`))).toBe(TEXT + end);
  });

  it("is refused at a limit of steps, when a text is searched", () => {
    const looking = tokenizer(split("(?:(?!x*y)x)*z"));
    const problem = `the pattern "(?:(?!x*y)x)*z" takes more than 192512 steps`;
    expectThrownReadMeError(() => looking.encode(TEXT), "ERR_MODEL_UNSUPPORTED", "hostile.json", problem);
  });

  it("replaces by the text that the file says, also where JavaScript means the match", () => {
    const built = tokenizer({ normalizer: replace({ Regex: "[ab]" }, "<$&$1$$>") });
    expect(built.decode(built.encode("xay"))).toBe("x<$&$1$$>y");
    const empty = tokenizer({ normalizer: replace({ Regex: "b*" }, "-") });
    expect(empty.decode(empty.encode("abb😀"))).toBe("abb😀".replaceAll(/b*/gu, "-"));
  });

  it("is refused when it is too large, or has a part that is not read", () => {
    for (const [regex, problem] of [
      ["(x{1000}){1000}", "has more than 4096 parts"],
      [String.raw`(x)\1`, "has `\\1`, which is not supported"],
      ["x".repeat(4097), "has more than 4096 characters"],
      [`${"(".repeat(70)}x${")".repeat(70)}`, "has more than 64 groups in each other"],
    ] as const) {
      expectRefused(split(regex), `the pattern "${regex.slice(0, 3)}`, problem);
    }
    const literal = { type: "Split", pattern: { String: "x".repeat(257) }, behavior: "Isolated", invert: true };
    expectRefused({ pre_tokenizer: literal }, "has more than 256 characters");
  });
});

describe("what makes texts longer", () => {
  const doubling = Array.from({ length: 40 }, () => replace({ String: "a" }, "aa"));

  it("is refused in a normalizer", () => {
    expectRefused({ normalizer: { type: "Sequence", normalizers: doubling } }, "normalizer", "64 times as long");
    expectRefused({ normalizer: { type: "Prepend", prepend: "x".repeat(64) } }, "normalizer", "64 times as long");
    expectRefused({ normalizer: replace({ Regex: "b*" }, "x".repeat(64)) }, "normalizer", "64 times as long");
    const six = { type: "Sequence", normalizers: doubling.slice(0, 6) };
    expect(tokenizer({ normalizer: six }).encode("ab")).toHaveLength(65);
  });

  it("is refused in a pre-tokenizer", () => {
    const prefix = { type: "ByteLevel", add_prefix_space: true };
    const pretokenizers = Array.from({ length: 40 }, () => prefix);
    expectRefused({ pre_tokenizer: { type: "Sequence", pretokenizers } }, "pre-tokenizer", "64 times as long");
    for (const replacement of ["", "ab", "x".repeat(1e6)]) {
      const parts = { pre_tokenizer: { type: "Metaspace", replacement } };
      expectThrownReadMeError(() => tokenizer(parts), "ERR_FILE_CORRUPT", "`replacement`", "one character");
    }
  });

  it("is refused in a decoder", () => {
    expectRefused({ decoder: { type: "Sequence", decoders: doubling } }, "decoder", "64 times as long");
  });

  it("is refused in a post-processor", () => {
    const text = { Sequence: { id: "A", type_id: 0 } };
    const twice = { type: "TemplateProcessing", single: [text, text], pair: [] };
    const processors = Array.from({ length: 40 }, () => twice);
    expectRefused({ post_processor: { type: "Sequence", processors } }, "`post_processor` adds more than 256 tokens");
    const wide = { ...twice, single: Array.from({ length: 257 }, () => text) };
    expectRefused({ post_processor: wide }, "`post_processor` adds more than 256 tokens");
  });
});

it("a sequence of too many steps is refused", () => {
  const steps = Array.from({ length: 65 }, () => replace({ String: "a" }, "b"));
  expectRefused({ normalizer: { type: "Sequence", normalizers: steps } }, "`normalizers` has 65 steps, more than 64");
  const nested = steps.reduce<JsonObject>((inner, step) => ({ type: "Sequence", decoders: [step, inner] }), {
    type: "Fuse",
  });
  expectRefused({ decoder: nested }, "`decoders` has 66 steps, more than 64");
});

function added(content: string, index: number): JsonObject {
  return { id: 256 + index, content, special: true };
}

it("added tokens that are too long or too many are refused", () => {
  expectRefused({ added_tokens: [added("x".repeat(1025), 0)] }, "an added token has more than 1024 characters");
  const many = Array.from({ length: 600 }, (_, index) => added(`${index} `.repeat(300).slice(0, 1024), index));
  expectRefused({ added_tokens: many }, "the added tokens have too many characters");
});

it("a fault that quotes a long part of the file is cut in its message", () => {
  const post_processor = { type: "TemplateProcessing", single: ["ab ".repeat(2000)], pair: [], special_tokens: {} };
  const error = expectThrownReadMeError(() => tokenizer({ post_processor }), "ERR_MODEL_UNSUPPORTED", "hostile.json");
  expect(error.message.length).toBeLessThan(400);
});
