import { join } from "node:path";
import * as fc from "../support/fast-check.ts";
import { beforeAll, describe, expect, it } from "vitest";
import { loadTokenizer } from "../../packages/model/src/text/load-text.ts";
import { Tokenizer } from "../../packages/model/src/text/tokenizer.ts";
import { bpeModel, byteLevelDefinition, goldenCases, smolLm2, trickyTexts } from "../support/tokenizer-definitions.ts";

const POCKET = join(import.meta.dirname, "../../models/pocket");
let pocket: Tokenizer;

beforeAll(async () => {
  pocket = await loadTokenizer(POCKET);
});

describe("encode", () => {
  it.each(goldenCases("pocket"))("agrees with transformers on the pocket model's $text", ({ text, input_ids }) => {
    expect([...pocket.encode(text)]).toEqual(input_ids);
  });

  it("agrees with transformers on SmolLM2's texts and chats", async (context) => {
    const folder = smolLm2(context);
    const tokenizer = await loadTokenizer(folder);
    for (const { text, input_ids } of goldenCases("smollm2-135m-instruct"))
      expect([...tokenizer.encode(text)]).toEqual(input_ids);
  });

  // The ids are those of the Python package tokenizers 0.23.3 with the same tokenizer.json.
  it.each([
    ["\ufeffab", [174, 122, 126, 380]],
    ["a\u0085 b", [67, 129, 230, 282]],
    ["x²³ ½ Ⅷ", [90, 129, 113, 129, 114, 223, 129, 124, 223, 161, 230, 103]],
    ["٣٤٥ 1234", [152, 99, 152, 100, 152, 101, 223, 19, 20, 21, 22]],
    ["don't 'S", [70, 265, 741, 626, 53]],
    ["\n\n  \t x", [343, 264, 200, 1555]],
    ["日本 😀\u200d", [165, 248, 101, 165, 253, 108, 223, 175, 256, 249, 225, 362, 238]],
    ["a<|im_end|> b", [67, 2, 282]],
    ["<|im_end", [30, 94, 313, 65, 433]],
    ["\u0004!\u0013", [195, 3, 210]],
    ["e\u0301é", [71, 139, 226, 1596]],
    ["\u3000x\u00a0y", [2208, 225, 90, 677, 91]],
  ])("agrees with the reference implementation on %j", (text, ids) => {
    expect([...pocket.encode(text)]).toEqual(ids);
  });

  it("gives only the model's special tokens for an empty text", () => {
    expect([...pocket.encode("")]).toEqual([]);
    const tokenizer = withBos();
    expect([...tokenizer.encode("")]).toEqual([256]);
    expect([...tokenizer.encode("", { addSpecialTokens: false })]).toEqual([]);
    expect([...tokenizer.encode("a")]).toEqual([256, tokenizer.tokenId("a")]);
  });

  it("encodes a lone surrogate as U+FFFD", () => {
    expect(pocket.encode("a\ud800b")).toEqual(pocket.encode("a\ufffdb"));
    expect(pocket.encode("\udc00\ud800")).toEqual(pocket.encode("\ufffd\ufffd"));
  });

  it("rejects a value that is no string", () => {
    // @ts-expect-error a caller without types
    expect(() => pocket.encode(7)).toThrow(new TypeError("Expected `text` to be a string, got `7` (number)"));
  });

  it("encodes long texts without a space", () => {
    for (const text of ["a", "1", " ", "\n", "é", "中", "aA"].map((piece) => piece.repeat(30_000))) {
      expect(pocket.decode(pocket.encode(text))).toBe(text);
    }
  });

  it("drops bytes without a token before it merges their neighbours", () => {
    const model = bpeModel(["!", "a", "!!"], ["! !"]);
    const tokenizer = new Tokenizer({ path: "test", tokenizer: byteLevelDefinition([], { model }) });
    expect([...tokenizer.encode("!\u0004!a")]).toEqual([2, 1]);
  });

  it("puts a space before the text when a byte-level tokenizer asks for it", () => {
    const model = bpeModel(["Ġ", "a", "Ġa", "b"], ["Ġ a"]);
    const definition = byteLevelDefinition([], { model, pre_tokenizer: { type: "ByteLevel", add_prefix_space: true } });
    const tokenizer = new Tokenizer({ path: "test", tokenizer: definition });
    expect([...tokenizer.encode("a b")]).toEqual([2, 0, 3]);
    expect([...tokenizer.encode(" a")]).toEqual([2]);
  });

  // Expected pieces are those of the Python package tokenizers 0.23.3.
  it.each([
    ["always", true, "▁ab ▁a <s> ▁b ▁ ▁a"],
    ["first", true, "▁ab ▁a <s> b ▁ ▁a"],
    ["never", true, "ab ▁a <s> b ▁ ▁a"],
    ["always", false, "▁a b▁a <s> ▁ b▁ ▁a"],
    ["first", false, "▁a b▁a <s> b▁ ▁a"],
    ["never", false, "a b▁a <s> b▁ ▁a"],
  ])("cuts metaspace words with the prefix %s and split %s like the reference", (scheme, split, pieces) => {
    const tokens = ["<unk>", "<s>", "▁", "a", "b", "▁a", "▁b", "ab", "▁ab", "b▁", "b▁a"];
    const merges = ["b ▁", "b▁ a", "▁ a", "▁ b", "a b", "▁a b"];
    const metaspace = { type: "Metaspace", replacement: "▁", prepend_scheme: scheme, split };
    const tokenizer = new Tokenizer({
      path: "test",
      tokenizer: byteLevelDefinition([], {
        model: bpeModel(tokens, merges, { unk_token: "<unk>" }),
        pre_tokenizer: metaspace,
        decoder: metaspace,
        added_tokens: [{ id: 1, content: "<s>", special: true }],
      }),
    });
    const ids = tokenizer.encode("ab a<s>b  a");
    expect([...ids].map((id) => tokens[id]).join(" ")).toBe(pieces);
    const text = scheme === "always" ? "ab a b  a" : "ab ab  a";
    expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(text);
  });
});

describe("decode", () => {
  it("returns every encoded text", () => {
    fc.assert(fc.property(fc.string({ unit: "binary", maxLength: 60 }), expectRoundTrip), { numRuns: 300 });
    for (const text of trickyTexts(300)) expectRoundTrip(text);
  });

  it("spells a text in the bytes of its tokens", () => {
    for (const text of ["Naïve café → π", "😀<|im_end|>\n", " a"]) {
      const bytes = [...pocket.encode(text)].map((id) => pocket.tokenBytes(id));
      expect(Buffer.concat(bytes)).toEqual(Buffer.from(text));
    }
  });

  it("leaves special tokens out on request", () => {
    const ids = pocket.encode("<|im_start|>user\n<|im_end|>");
    expect(pocket.decode(ids)).toBe("<|im_start|>user\n<|im_end|>");
    expect(pocket.decode(ids, { skipSpecialTokens: true })).toBe("user\n");
  });

  it("returns no text for no ids, and for ids without a token", () => {
    expect(pocket.decode([])).toBe("");
    expect(pocket.decode([pocket.vocabSize, -1, 1e9, 0.5])).toBe("");
  });

  it("turns bytes that are no UTF-8 into U+FFFD", () => {
    const tokenizer = new Tokenizer({ path: "test", tokenizer: byteLevelDefinition([]) });
    expect(tokenizer.decode([0x61, 0xe2, 0x82, 0x62])).toBe("a\ufffdb");
  });

  it("removes spaces before punctuation only when the config asks for it", () => {
    const tokenizer = byteLevelDefinition([]);
    const text = "I do n't , we 're .";
    for (const [config, expected] of [
      [{}, text],
      [{ clean_up_tokenization_spaces: false }, text],
      [{ clean_up_tokenization_spaces: true }, "I don't, we're."],
    ] as const) {
      const built = new Tokenizer({ path: "test", tokenizer, config });
      expect(built.decode(built.encode(text))).toBe(expected);
    }
  });

  it("decodes byte tokens and the mark of a space", () => {
    const tokens = ["<unk>", "▁", "▁a", "a", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "<0xEF>", "<0xBB>", "<0xBF>"];
    const decoders = [
      { type: "Replace", pattern: { String: "▁" }, content: " " },
      { type: "ByteFallback" },
      { type: "Fuse" },
      { type: "Strip", content: " ", start: 1, stop: 0 },
    ];
    const tokenizer = new Tokenizer({
      path: "test",
      tokenizer: byteLevelDefinition([], {
        model: bpeModel(tokens, ["▁ a"]),
        pre_tokenizer: null,
        decoder: { type: "Sequence", decoders },
      }),
    });
    expect(tokenizer.decode([2, 4, 5, 6, 7, 1, 2])).toBe("a😀  a");
    expect(tokenizer.decode([1, 1])).toBe(" ");
    expect(tokenizer.decode([8, 9, 10, 3])).toBe("\ufeffa");
    expect([...tokenizer.tokenBytes(2)]).toEqual([0x20, 0x61]);
    expect([...tokenizer.tokenBytes(5)]).toEqual([0x9f]);
  });
});

function expectRoundTrip(text: string): void {
  expect(pocket.decode(pocket.encode(text))).toBe(text);
}

function withBos(): Tokenizer {
  const single = [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }];
  return new Tokenizer({
    path: "test",
    tokenizer: byteLevelDefinition([], {
      added_tokens: [{ id: 256, content: "<s>", special: true }],
      post_processor: { type: "TemplateProcessing", single, pair: [] },
    }),
  });
}
