import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { GgufFile } from "../../packages/model/src/gguf/gguf-tensor-store.ts";
import { CHARACTER_OF_BYTE } from "../../packages/model/src/text/pre-tokenizer.ts";
import { GGUF_PRE_TOKENIZERS, ggufTokenizer } from "../../packages/model/src/text/gguf-tokenizer.ts";
import { loadTokenizer } from "../../packages/model/src/text/load-text.ts";
import type { Tokenizer } from "../../packages/model/src/text/tokenizer.ts";
import {
  byteLevelTokens,
  expectThrownReadMeError,
  ggufMetadata,
  goldenCases,
  smolLm2,
  trickyTexts,
} from "../support/tokenizer-definitions.ts";

describe("a byte-level tokenizer of GGUF metadata", () => {
  it("encodes as SmolLM2's tokenizer.json does", async (context) => {
    const folder = smolLm2(context);
    const path = join(folder, "SmolLM2-135M-Instruct.Q4_1.gguf");
    const file = await GgufFile.open(path);
    const { metadata } = file;
    await file.close();
    const fromGguf = ggufTokenizer(metadata, path);
    const fromFolder = await loadTokenizer(folder);
    for (const { text, input_ids } of goldenCases("smollm2-135m-instruct"))
      expect([...fromGguf.encode(text)]).toEqual(input_ids);
    for (const text of [...goldenCases("pocket").map((golden) => golden.text), ...trickyTexts(300)]) {
      expect(fromGguf.encode(text)).toEqual(fromFolder.encode(text));
    }
    for (const role of ["bosToken", "eosToken", "unkToken", "padToken", "vocabSize"] as const) {
      expect(fromGguf[role]).toEqual(fromFolder[role]);
    }
    const ids = Array.from({ length: fromFolder.vocabSize }, (_, id) => id);
    const differing = ids.filter(
      (id) =>
        Buffer.compare(fromGguf.tokenBytes(id), fromFolder.tokenBytes(id)) !== 0 ||
        fromGguf.isSpecial(id) !== fromFolder.isSpecial(id),
    );
    expect(differing).toEqual([]);
  });

  // Each text is cut differently by some pattern. The pieces are those of the Python package
  // tokenizers 0.23.3 with the same vocabulary and each model's own pre-tokenizer.
  const merges = "1 1|11 1|11 11|' S|! Ċ|! /|o W|( o|Ġ !|Ġ 1|Ċ Ċ|Ġ Ġ|x y|xy z".split("|");
  const common = { "\n\n  x": "ĊĊ Ġ Ġ x", "e\u0301": "e Ì ģ", pqr: "p q r" };
  const words = { "x'S": "x ' S", "oW(o": "oW ( o", "!\n!/": "! Ċ !/" };
  const llama = { "x'S": "x 'S", "oW(o": "oW (o", "!\n!/": "!Ċ !/" };
  const digits = { "1111111": "1 1 1 1 1 1 1", " ! 11": "Ġ! Ġ 1 1" };
  const triples = { "1111111": "111 111 1", " ! 11": "Ġ! Ġ 11" };
  it.each([
    ["gpt-2", { ...common, ...words, "1111111": "1111 111", " ! 11": "Ġ! Ġ 11" }],
    ["smollm", { ...common, ...words, ...digits }],
    ["llama-bpe", { ...common, ...llama, ...triples, pqr: "pqr" }],
    ["smaug-bpe", { ...common, ...llama, ...triples }],
    ["qwen2", { ...common, ...llama, ...digits, "e\u0301": "Ã ©" }],
    ["tekken", { ...common, ...llama, ...digits, "oW(o": "o W (o", pqr: "pqr" }],
    ["gpt-4o", { ...common, ...llama, ...triples, "oW(o": "o W (o" }],
    ["default", { ...common, ...words, ...triples, " ! 11": "Ġ ! Ġ 11" }],
  ])("cuts texts as the pre-tokenizer %s does", (pre, expected) => {
    const tokens = byteLevelTokens(merges, ["pqr"]);
    const tokenizer = ggufTokenizer(ggufMetadata({ model: "gpt2", pre, tokens, merges }), "test.gguf");
    for (const [text, pieces] of Object.entries(expected)) {
      const ids = [...tokenizer.encode(text)];
      expect(ids.map((id) => tokens[id]).join(" ")).toBe(pieces);
      expect(tokenizer.decode(ids)).toBe(pre === "qwen2" ? text.normalize("NFC") : text);
    }
  });

  it("uses the default pre-tokenizer when the file names none", () => {
    const tokens = byteLevelTokens(merges);
    const tokenizer = ggufTokenizer(ggufMetadata({ model: "gpt2", tokens, merges }), "test.gguf");
    expect([...tokenizer.encode("1111")].map((id) => tokens[id])).toEqual(["111", "1"]);
  });

  it("cuts out control and user-defined tokens, and marks control tokens as special", () => {
    const tokens = byteLevelTokens([], ["<|im_end|>", "<think>"]);
    const token_type = Int32Array.from(tokens, (_, id) => [3, 4][id - 256] ?? 1);
    const tokenizer = ggufTokenizer(ggufMetadata({ model: "gpt2", pre: "gpt-2", tokens, token_type, merges: [] }), "x");
    expect([...tokenizer.encode("<think>a<|im_end|>")]).toEqual([257, 0x61, 256]);
    expect(tokenizer.decode([257, 0x61, 256], { skipSpecialTokens: true })).toBe("<think>a");
  });

  it.each([
    ["gpt-2", {}, [0x61]],
    ["gpt-2", { add_bos_token: true }, [256, 0x61]],
    ["gpt-2", { add_bos_token: true, add_eos_token: true }, [256, 0x61, 257]],
    ["llama-bpe", {}, [256, 0x61]],
    ["llama-bpe", { add_bos_token: false }, [0x61]],
    ["tekken", {}, [256, 0x61]],
  ])("adds the tokens around a text of %s that the flags %o ask for", (pre, flags, ids) => {
    const tokens = byteLevelTokens([], ["<s>", "</s>"]);
    const fields = { model: "gpt2", pre, tokens, merges: [], bos_token_id: 256, eos_token_id: 257, ...flags };
    const tokenizer = ggufTokenizer(ggufMetadata(fields), "test.gguf");
    expect([...tokenizer.encode("a")]).toEqual(ids);
    expect([...tokenizer.encode("a", { addSpecialTokens: false })]).toEqual([0x61]);
    expect(tokenizer.eosToken).toEqual({ id: 257, text: "</s>" });
    expect(tokenizer.isSpecial(257)).toBe(true);
  });

  it("keeps the ids of empty tokens and of a token named __proto__", () => {
    const tokens = byteLevelTokens([], ["", "", "__proto__", "<x>"]);
    const tokenizer = ggufTokenizer(
      ggufMetadata({ model: "gpt2", tokens, merges: [], bos_token_id: 259 }),
      "test.gguf",
    );
    expect(tokenizer.decode([258])).toBe("__proto__");
    expect(tokenizer.bosToken).toEqual({ id: 259, text: "<x>" });
  });
});

describe("a SentencePiece tokenizer of GGUF metadata", () => {
  // Scores are ranks, as SentencePiece's BPE trainer writes them: higher scores merge earlier.
  const scored: Readonly<Record<string, number>> = {
    "▁a": -0,
    "▁b": -1,
    ab: -2,
    "▁ab": -3,
    aba: -4,
    "▁▁": -5,
    "▁▁▁▁": -6,
    "▁": -7,
    a: -8,
    b: -9,
  };
  const bytes = CHARACTER_OF_BYTE.map((_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
  const tokens = ["<unk>", "<s>", "</s>", ...bytes, ...Object.keys(scored)];
  const fields = {
    model: "llama",
    tokens,
    scores: Float32Array.from(tokens, (token) => scored[token] ?? 0),
    token_type: Int32Array.from(tokens, (_, id) => (id === 0 ? 2 : id < 3 ? 3 : id < 259 ? 6 : 1)),
    bos_token_id: 1,
    eos_token_id: 2,
    unknown_token_id: 0,
  };
  const build = (more: Parameters<typeof ggufMetadata>[0] = {}): Tokenizer =>
    ggufTokenizer(ggufMetadata({ ...fields, ...more }), "test.gguf");
  const pieces = (tokenizer: Tokenizer, text: string): string =>
    [...tokenizer.encode(text, { addSpecialTokens: false })].map((id) => tokens[id]).join(" ");

  it("merges the neighbours whose token has the highest score", () => {
    const tokenizer = build();
    expect(pieces(tokenizer, "ab")).toBe("▁ab");
    expect(pieces(tokenizer, "aba")).toBe("▁ab a");
    expect(pieces(tokenizer, "bab a")).toBe("▁b ab ▁a");
    expect(pieces(tokenizer, "b    a")).toBe("▁b ▁▁ ▁ ▁a");
    expect(pieces(tokenizer, "     ")).toBe("▁▁▁▁ ▁▁");
  });

  it("encodes characters without a token as bytes, and decodes them", () => {
    const tokenizer = build();
    expect(pieces(tokenizer, "é\n")).toBe("▁ <0xC3> <0xA9> <0x0A>");
    for (const text of ["aé\n😀 b", " a", "  ", "", "<0x41>", "\ufeffa", ...trickyTexts(300)]) {
      expect(tokenizer.decode(tokenizer.encode(text, { addSpecialTokens: false }))).toBe(text);
    }
  });

  it("adds a BOS token, and a space before the text, by default", () => {
    expect(build().encode("a")[0]).toBe(1);
    expect(build({ add_bos_token: false }).encode("a")).toHaveLength(1);
    expect(pieces(build({ add_space_prefix: false }), "ab")).toBe("ab");
    expect(build({ add_space_prefix: false }).decode([tokens.indexOf("▁a")])).toBe(" a");
    expect(build().decode([tokens.indexOf("▁a")])).toBe("a");
  });

  it("encodes long texts, of one word and of many", () => {
    const tokenizer = build();
    for (const text of ["ab".repeat(30_000), "ab ".repeat(30_000)]) {
      expect(tokenizer.decode(tokenizer.encode(text, { addSpecialTokens: false }))).toBe(text);
    }
  });

  it("finds the unknown token by its type when the file does not name it, and does without one", () => {
    // Without tokens for bytes, a character that is no token is the unknown one.
    const few = ["▁a", "?", "▁", "a"];
    const own = { tokens: few, scores: new Float32Array(4), bos_token_id: undefined, eos_token_id: undefined };
    const encode = (more: Parameters<typeof ggufMetadata>[0]): readonly number[] => [
      ...build({ ...own, ...more }).encode("aé"),
    ];
    const typed = Int32Array.of(1, 2, 1, 1);
    expect(encode({ token_type: typed, unknown_token_id: 1 })).toStrictEqual([0, 1]);
    expect(encode({ token_type: typed, unknown_token_id: undefined })).toStrictEqual([0, 1]);
    // The id counts more than the type.
    expect(encode({ token_type: typed, unknown_token_id: 2 })).toStrictEqual([0, 2]);
    expect(encode({ token_type: undefined, unknown_token_id: undefined })).toStrictEqual([0]);
    expect(build({ unknown_token_id: undefined }).unkToken).toBeUndefined();
    expect(build({ unknown_token_id: 0 }).unkToken).toStrictEqual({ id: 0, text: "<unk>" });
  });

  // Values that an absent key stands for.
  const defaults = { add_bos_token: true, add_eos_token: false, add_space_prefix: true };
  it.each(Object.keys({ ...fields, ...defaults }))("is the same or refused by name without %s", (key) => {
    const texts = ["ab aba", "é\n", "<s>a</s>"];
    const answers = (tokenizer: Tokenizer): unknown => texts.map((text) => [...tokenizer.encode(text)]);
    const without = (): Tokenizer => build({ ...defaults, [key]: undefined });
    if (["model", "tokens", "scores", "bos_token_id"].includes(key)) {
      const code = key === "model" ? "ERR_MODEL_UNSUPPORTED" : "ERR_FILE_CORRUPT";
      expectThrownReadMeError(without, code, key === "bos_token_id" ? "add_bos_token" : `tokenizer.ggml.${key}`);
    } else expect(answers(without())).toStrictEqual(answers(build(defaults)));
  });

  it("refuses metadata without scores", () => {
    expectThrownReadMeError(() => build({ scores: undefined }), "ERR_FILE_CORRUPT", "tokenizer.ggml.scores");
    expectThrownReadMeError(
      () => build({ scores: new Float32Array(3) }),
      "ERR_FILE_CORRUPT",
      "tokenizer.ggml.scores",
      "3",
    );
  });

  it("refuses a token that is far too long", () => {
    const long = [...tokens.slice(0, -1), "a".repeat(5000)];
    expectThrownReadMeError(() => build({ tokens: long }), "ERR_FILE_CORRUPT", "tokenizer.ggml.tokens", "5000");
    const many = tokens.map((_, index) => `${index} `.repeat(1024).slice(0, 1024));
    expectThrownReadMeError(() => build({ tokens: many }), "ERR_FILE_CORRUPT", "tokenizer.ggml.tokens", "together");
  });
});

describe("wrong GGUF metadata", () => {
  const tokens = byteLevelTokens(["a b"]);
  const fields = { model: "gpt2", pre: "gpt-2", tokens, merges: ["a b"] };

  it.each([
    ["tokens", undefined],
    ["tokens", 7],
    ["tokens", [...tokens, "a"]],
    ["token_type", Int32Array.of(1, 2)],
    ["token_type", "normal"],
    ["merges", undefined],
    ["merges", ["ab"], "merge 0"],
    ["merges", ["a b b"], "merge 0"],
    ["merges", ["a c"], "merge 0", '"ac"'],
    ["bos_token_id", 257],
    ["eos_token_id", -1],
    ["padding_token_id", "ab"],
    ["unknown_token_id", 2n ** 60n],
    ["add_bos_token", 1],
    ["add_eos_token", true],
    ["pre", 5],
    ["model", 5],
  ])("is reported as corrupt, naming %s", (key, value, ...named: readonly string[]) => {
    const metadata = ggufMetadata({ ...fields, [key]: value });
    const names = named.length > 0 ? named : [`tokenizer.ggml.${key}`];
    expectThrownReadMeError(() => ggufTokenizer(metadata, "x.gguf"), "ERR_FILE_CORRUPT", "x.gguf", ...names);
  });

  it.each([
    ["model", "rwkv"],
    ["model", undefined],
    ["pre", "gpt-5"],
    ["pre", "__proto__"],
  ])("is not supported when %s is %s", (key, value) => {
    const metadata = ggufMetadata({ ...fields, [key]: value });
    const error = expectThrownReadMeError(() => ggufTokenizer(metadata, "x.gguf"), "ERR_MODEL_UNSUPPORTED", key);
    expect(error.message).toContain(String(value));
    if (key === "pre") for (const known of GGUF_PRE_TOKENIZERS.keys()) expect(error.message).toContain(known);
  });
});
