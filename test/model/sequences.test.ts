import { cutSequences, Tokenizer } from "@readme-moe/model";
import { describe, expect, test } from "vitest";
import { endOfTextId } from "../../packages/model/src/text/tokenizer.ts";
import * as fc from "../support/fast-check.ts";
import { bpeModel, byteLevelDefinition, byteLevelTokens } from "../support/tokenizer-definitions.ts";

describe("sequences of a text", () => {
  test("have one length, begin with the opening tokens, and together are the text up to a rest", () => {
    const lists = fc.record({
      openingIds: fc.array(fc.integer({ min: 0, max: 9 }), { maxLength: 2 }),
      tokens: fc.array(fc.integer({ min: 10, max: 99 }), { maxLength: 60 }),
      own: fc.integer({ min: 1, max: 12 }),
    });
    fc.assert(
      fc.property(lists, ({ openingIds, tokens, own }) => {
        const length = own + openingIds.length;
        const sequences = cutSequences({ openingIds }, tokens, length).map((ids) => Array.from(ids));
        expect(sequences.every((ids) => ids.length === length)).toBe(true);
        for (const ids of sequences) expect(ids.slice(0, openingIds.length)).toEqual(openingIds);
        const joined = sequences.flatMap((ids) => ids.slice(openingIds.length));
        expect(joined).toEqual(tokens.slice(0, joined.length));
        expect(tokens.length - joined.length).toBeLessThan(own);
      }),
    );
  });

  test("that hold nothing but opening tokens are refused", () => {
    expect(() => cutSequences({ openingIds: [1] }, [2, 3], 1)).toThrow(/`length` to be above 1, got 1/);
  });
});

function build(isSpecial: boolean, post: object | null): Tokenizer {
  const model = bpeModel(byteLevelTokens([], ["<s>", "</s>"]), []);
  const added_tokens = [
    { id: 256, content: "<s>", special: true },
    { id: 257, content: "</s>", special: isSpecial },
  ];
  const tokenizer = byteLevelDefinition([], { model, added_tokens, post_processor: post });
  return new Tokenizer({ path: "test", tokenizer });
}

describe("a tokenizer", () => {
  const text = { Sequence: { id: "A", type_id: 0 } };
  const single = [{ SpecialToken: { id: "<s>", type_id: 0 } }, text];

  test("names the tokens that it puts before a text", () => {
    expect(build(true, null).openingIds).toEqual([]);
    const withBos = build(true, { type: "TemplateProcessing", single, pair: single });
    expect(withBos.openingIds).toEqual([256]);
    expect(withBos.encode("a")[0]).toBe(256);
  });

  test("ends texts with a token that is special, not with a tag of the same spelling", () => {
    expect(endOfTextId(build(true, null), [3])).toBe(257);
    expect(endOfTextId(build(false, null), [3])).toBe(3);
  });
});
