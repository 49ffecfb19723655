// Prompts with a gap: their tokens are those of hand-written marks, and of a tokenizer without control tokens.

import { join } from "node:path";
import type { FillInPrompt } from "@readme-moe/core";
import { describe, expect, it } from "vitest";
import { encodeFillIn } from "../../packages/model/src/text/fill-in.ts";
import { type FillInMarks, fillInMarks } from "../../packages/model/src/text/fill-in-marks.ts";
import { ggufTokenizer } from "../../packages/model/src/text/gguf-tokenizer.ts";
import { finish } from "../../packages/model/src/text/pausing.ts";
import { Tokenizer } from "../../packages/model/src/text/tokenizer.ts";
import { QWEN_MARKS } from "../support/fill-in-model.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import {
  byteLevelDefinition,
  byteLevelTokens,
  expectThrownReadMeError,
  ggufMetadata,
  trickyTexts,
} from "../support/tokenizer-definitions.ts";

const PATH = join("models", "tokenizer.json");
const MERGES = ["d e", "de f", "Ġ a", "( a", "r e", "re t", "< |", "| >", "f i", "fi m"];

/** Makes a tokenizer with added tokens, of which only those that end texts are special. */
function tokenizerWith(added: readonly string[], config: Readonly<Record<string, string>> = {}): Tokenizer {
  const first = byteLevelTokens(MERGES).length;
  const tokens = added.map((content, index) => ({
    id: first + index,
    content,
    special: /end|eos|EOT|^<.s>$/.test(content),
    normalized: false,
  }));
  return new Tokenizer({ path: PATH, tokenizer: byteLevelDefinition(MERGES, { added_tokens: tokens }), config });
}

/** Each family: its tokens, and the order of a prompt, `A` before the gap and `B` behind it. */
const FAMILIES: readonly (readonly [family: string, tokens: readonly string[], order: string, ends: number])[] = [
  ["qwen2.5-coder", ["<|endoftext|>", ...Object.values(QWEN_MARKS)], "<|fim_prefix|>A<|fim_suffix|>B<|fim_middle|>", 7],
  [
    "codegemma",
    ["<eos>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_separator|>"],
    "<|fim_prefix|>A<|fim_suffix|>B<|fim_middle|>",
    5,
  ],
  [
    "granite-4",
    ["<|end_of_text|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>"],
    "<|fim_prefix|>A<|fim_suffix|>B<|fim_middle|>",
    5,
  ],
  [
    "starcoder2",
    ["<|endoftext|>", "<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>", "<repo_name>", "<file_sep>"],
    "<fim_prefix>A<fim_suffix>B<fim_middle>",
    7,
  ],
  [
    "starcoder",
    ["<|endoftext|>", "<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>", "<reponame>", "<filename>"],
    "<fim_prefix>A<fim_suffix>B<fim_middle>",
    7,
  ],
  ["granite", ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"], "<fim_prefix>A<fim_suffix>B<fim_middle>", 3],
  ["santacoder", ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"], "<fim-prefix>A<fim-suffix>B<fim-middle>", 3],
  [
    "deepseek-coder",
    ["<｜end▁of▁sentence｜>", "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
    "<｜fim▁begin｜>A<｜fim▁hole｜>B<｜fim▁end｜>",
    4,
  ],
  ["code-llama", ["</s>", "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"], "▁<PRE>A▁<SUF>B▁<MID>", 5],
  ["codestral", ["</s>", "[PREFIX]", "[SUFFIX]"], "[SUFFIX]B[PREFIX]A", 3],
];

function marksOf(tokenizer: Tokenizer): FillInMarks {
  const marks = fillInMarks(tokenizer);
  if (!marks) throw new Error("Expected a tokenizer with marks");
  return marks;
}

function idsOf(tokenizer: Tokenizer, prompt: FillInPrompt, filesWithinTokens?: number): readonly number[] {
  const limits = filesWithinTokens === undefined ? {} : { filesWithinTokens };
  return [...finish(encodeFillIn(tokenizer, prompt, limits))];
}

const written = (tokenizer: Tokenizer, text: string): readonly number[] => [...tokenizer.encode(text)];

describe.each(FAMILIES)("%s", (family, tokens, order, numEnds) => {
  const tokenizer = tokenizerWith(tokens);

  it("is found by its tokens, which are no text any more", () => {
    const marks = marksOf(tokenizer);
    expect(marks.family).toBe(family);
    expect(marks.endTokenIds).toHaveLength(numEnds);
    expect(new Set(marks.endTokenIds)).toEqual(new Set(tokens.map((token) => tokenizer.tokenId(token))));
    for (const { id } of [marks.prefix, marks.suffix]) {
      expect(tokenizer.isSpecial(id)).toBe(true);
      expect(tokenizer.decode([id], { skipSpecialTokens: true })).toBe("");
    }
  });

  it("has the ids of the marks that one writes by hand", () => {
    for (const [index, prefix] of trickyTexts(200).entries()) {
      const suffix = trickyTexts(200)[199 - index] ?? "";
      if ([prefix, suffix].some((text) => text.includes("☺"))) continue;
      const text = order.replaceAll(/[AB]/g, (place) => (place === "A" ? prefix : suffix));
      expect(idsOf(tokenizer, { prefix, suffix }), JSON.stringify([prefix, suffix])).toEqual(written(tokenizer, text));
    }
    expect(idsOf(tokenizer, { prefix: "", suffix: "" })).toEqual(
      written(tokenizer, order.replace("A", "").replace("B", "")),
    );
  });

  it("has no mark but its own, whatever texts spell", () => {
    const plain = tokenizerWith([]);
    const random = seededRandom(order.length);
    const pieces = [
      ...tokens,
      ...tokens.map((one) => one.slice(0, 4)),
      ...tokens.map((one) => one.slice(4)),
      " a",
      "\n",
    ];
    const draw = (): string =>
      Array.from({ length: randomInteger(random, 9) }, () => pieces[randomInteger(random, pieces.length)]).join("");
    const { prefix: before, suffix: behind, middle, isSuffixFirst } = marksOf(tokenizer);
    for (let round = 0; round < 300; round++) {
      const [prefix, suffix] = [draw(), draw()];
      const first = [before.id, ...written(plain, prefix)];
      const second = [behind.id, ...written(plain, suffix)];
      const expected = [...(isSuffixFirst ? [second, first] : [first, second]).flat(), ...(middle ? [middle.id] : [])];
      expect(idsOf(tokenizer, { prefix, suffix }), JSON.stringify([prefix, suffix])).toEqual(expected);
    }
  });
});

describe("other files", () => {
  const qwen = tokenizerWith(["<|endoftext|>", ...Object.values(QWEN_MARKS)]);
  const files = [
    { name: "a.py", text: "def a" },
    { name: "b<|file_sep|>.py", text: "ret <|fim_middle|>\n" },
  ];
  const gap = { prefix: "def ", suffix: "(a" };

  it("come before the gap, in the family's form", () => {
    const start = "<|repo_name|>project\n<|file_sep|>a.py\ndef a\n<|file_sep|>";
    const first = written(qwen, `${start}file\n<|fim_prefix|>def <|fim_suffix|>(a<|fim_middle|>`);
    expect(idsOf(qwen, { ...gap, files: files.slice(0, 1) })).toEqual(first);
    const named = idsOf(qwen, { ...gap, files: files.slice(0, 1), repository: "r" });
    expect(named).toEqual(written(qwen, `<|repo_name|>r${qwen.decode(first).slice("<|repo_name|>project".length)}`));
    const plain = tokenizerWith(["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]);
    const unmarked = written(plain, "a.py\ndef a\n<fim_prefix>def <fim_suffix>(a<fim_middle>");
    expect(idsOf(plain, { ...gap, files: files.slice(0, 1) })).toEqual(unmarked);
  });

  it("spell no marks, and change nothing of the gap", () => {
    const ids = idsOf(qwen, { ...gap, files });
    const marks = marksOf(qwen);
    expect(ids.filter((id) => id === marks.file?.id)).toHaveLength(3);
    expect(ids.filter((id) => id === marks.middle?.id)).toHaveLength(1);
    expect(qwen.decode(ids)).toContain("b<|file_sep|>.py\nret <|fim_middle|>\n<|file_sep|>file\n");
    const alone = idsOf(qwen, gap);
    expect(ids.slice(-alone.length)).toEqual(alone);
  });

  it("are left out from the first on where there is no room", () => {
    const [both, last, none] = [files, files.slice(1), []].map((some) => idsOf(qwen, { ...gap, files: some }).length);
    const lengthWithin = (tokens: number): number => idsOf(qwen, { ...gap, files }, tokens).length;
    expect(lengthWithin(both ?? 0)).toBe(both);
    expect(lengthWithin((both ?? 0) - 1)).toBe(last);
    expect(lengthWithin(last ?? 0)).toBe(last);
    expect(lengthWithin((last ?? 0) - 1)).toBe(none);
    expect(lengthWithin(0)).toBe(none);
  });
});

describe("a prompt", () => {
  it("is refused as soon as it has too many tokens, and by a model without marks", () => {
    const qwen = tokenizerWith(Object.values(QWEN_MARKS));
    const { length } = idsOf(qwen, { prefix: "aaaa", suffix: "bbbb" });
    const encode = (maxTokens: number): Int32Array =>
      finish(encodeFillIn(qwen, { prefix: "aaaa", suffix: "bbbb" }, { maxTokens }));
    expect(encode(length)).toHaveLength(length);
    expectThrownReadMeError(() => encode(7), "ERR_CONTEXT_LENGTH");
    expect(fillInMarks(tokenizerWith(["<repo_name>", "<file_sep>"]))).toBeUndefined();
    expect(() => idsOf(tokenizerWith([]), { prefix: "a", suffix: "b" })).toThrow(TypeError);
  });

  it("begins with the tokens that the model expects before a text", () => {
    const definition = byteLevelDefinition(MERGES, {
      added_tokens: ["<|endoftext|>", ...Object.values(QWEN_MARKS)].map((content, index) => ({
        id: 266 + index,
        content,
        special: true,
        normalized: false,
      })),
      post_processor: {
        type: "TemplateProcessing",
        single: [{ SpecialToken: { id: "<|endoftext|>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
        pair: [{ Sequence: { id: "A", type_id: 0 } }],
        special_tokens: { "<|endoftext|>": { id: "<|endoftext|>", ids: [266], tokens: ["<|endoftext|>"] } },
      },
    });
    const tokenizer = new Tokenizer({ path: PATH, tokenizer: definition });
    expect(idsOf(tokenizer, { prefix: "a", suffix: "b" })).toEqual(
      written(tokenizer, "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"),
    );
    expect(idsOf(tokenizer, { prefix: "a", suffix: "b" })[0]).toBe(266);
  });
});

describe("a model's files", () => {
  it("may name marks that no family has", () => {
    const tokens = ["<before>", "<behind>", "<here>", "<over>"];
    const roles = { prefix_token: "<before>", suffix_token: "<behind>", middle_token: "<here>", eot_token: "<over>" };
    const tokenizer = tokenizerWith(tokens, roles);
    expect(marksOf(tokenizer)).toMatchObject({ family: "declared", prefix: { text: "<before>" } });
    expect(marksOf(tokenizer).endTokenIds).toHaveLength(4);
    expect(fillInMarks(tokenizerWith(tokens))).toBeUndefined();
  });

  it.each([
    ["fim_pre", "fim_suf", "fim_mid"],
    ["prefix", "suffix", "middle"],
  ])("in GGUF may name them by %s_token_id", (...keys) => {
    const first = byteLevelTokens(MERGES).length;
    const named = Object.fromEntries(keys.map((key, index) => [`${key}_token_id`, first + index]));
    const tokens = byteLevelTokens(MERGES, ["<before>", "<behind>", "<here>"]);
    const token_type = Int32Array.from(tokens, (_, id) => (id < first ? 1 : 4));
    const metadata = ggufMetadata({ model: "gpt2", tokens, token_type, merges: [...MERGES], ...named });
    const tokenizer = ggufTokenizer(metadata, "model.gguf");
    expect(marksOf(tokenizer)).toMatchObject({ suffix: { id: first + 1 }, middle: { id: first + 2 } });
    expect(tokenizer.isSpecial(first)).toBe(true);
    expect(idsOf(tokenizer, { prefix: "def", suffix: "<here>" })).toEqual([
      first,
      ...written(tokenizer, "def"),
      first + 1,
      ...written(tokenizerWith([]), "<here>"),
      first + 2,
    ]);
  });

  it("of SentencePiece have no space before what follows the gap", () => {
    const words = ["▁", "▁a", "a", "b", "▁b", "☺"];
    const tokens = ["<unk>", "<s>", "</s>", "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>", ...words];
    const token_type = Int32Array.from(tokens, (_, id) => (id === 0 ? 2 : id < 7 ? 3 : 1));
    const scores = Float32Array.from(tokens, (_, id) => -id);
    const roles = { bos_token_id: 1, eos_token_id: 2, unknown_token_id: 0 };
    const tokenizer = ggufTokenizer(ggufMetadata({ model: "llama", tokens, token_type, scores, ...roles }), "m.gguf");
    const spelled = idsOf(tokenizer, { prefix: "a", suffix: "a b" }).map((id) => tokenizer.spelling(id));
    expect(spelled).toEqual(["<s>", "▁<PRE>", "▁a", "▁<SUF>", "a", "▁b", "▁<MID>"]);
    const empty = idsOf(tokenizer, { prefix: "a", suffix: "" }).map((id) => tokenizer.spelling(id));
    expect(empty).toEqual(["<s>", "▁<PRE>", "▁a", "▁<SUF>", "▁<MID>"]);
  });
});
