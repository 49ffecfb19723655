// Texts on which a naive tokenizer is slow, and tokenizers of every kind to try them on.

import { join } from "node:path";
import { GGUF_PRE_TOKENIZERS, ggufTokenizerSource } from "../../packages/model/src/text/gguf-tokenizer.ts";
import type { TokenizerSource } from "../../packages/model/src/text/tokenizer.ts";
import { type JsonObject, readJsonFile } from "../../packages/model/src/files/read-file.ts";
import { CHARACTER_OF_BYTE } from "../../packages/model/src/text/pre-tokenizer.ts";
import { randomInteger, seededRandom } from "./random.ts";
import { sharedModel } from "./shared.ts";
import { bpeModel, byteLevelDefinition, byteLevelTokens, ggufMetadata } from "./tokenizer-definitions.ts";

/** Fillers of a text of one million characters, and texts that may follow. */
export const HOSTILE_UNITS: readonly string[] = [
  " ",
  "a",
  "A",
  "é",
  "中",
  "\n",
  "\r\n",
  "\t",
  "1",
  "'",
  '"',
  "<",
  ".",
  "😀",
  "👩‍👩‍👧",
  "\u0301",
  "\u0301\u0316",
  "e\u0301\u0316\u0345",
  "\u093c",
  "ᅡ",
  "각",
  "ｶﾞ",
  " a",
  "a ",
  " \n",
  "aA",
  "A1",
  "1a",
  "1 ",
  ".\n",
  "'s",
  "'S",
  "\u00a0",
  "\u0085",
  "\ufeff",
  "\u0000",
  "▁",
  "<|im_",
  "<|im_end|>",
];

export function hostileTexts(length: number): string[] {
  const units = HOSTILE_UNITS.map((unit) => unit.repeat(Math.ceil(length / unit.length)));
  return units.flatMap((text) => [text, `${text}x`, `b${text}\n`]);
}

/** Makes texts of random pieces, among them runs, spellings of special tokens and lone surrogates. */
export function randomTexts(count: number, seed: number, more: readonly string[] = []): string[] {
  const random = seededRandom(seed);
  const pieces = [
    ...HOSTILE_UNITS,
    ...more,
    "hello",
    " world",
    "don't",
    "\ud800",
    "\udc00",
    "ab",
    "ba",
    "½",
    "Ⅷ",
    "ǅ",
    "",
    "K",
    "ﬁ",
  ];
  const pick = (): string => pieces[randomInteger(random, pieces.length)] as string;
  return Array.from({ length: count }, () =>
    Array.from({ length: 1 + randomInteger(random, 30) }, () =>
      random() < 0.15 ? pick().repeat(randomInteger(random, 60)) : pick(),
    ).join(""),
  );
}

/** Makes merges that join random pairs of tokens, and the tokens that they make. */
function randomMerges(alphabet: readonly string[], count: number, seed: number): string[] {
  const random = seededRandom(seed);
  const tokens = [...alphabet];
  const known = new Set(tokens);
  const merges: string[] = [];
  for (let tries = 0; merges.length < count && tries < 50 * count; tries++) {
    const [left, right] = [0, 0].map(() => tokens[randomInteger(random, tokens.length)] as string);
    const merged = `${left}${right}`;
    if (left === undefined || right === undefined || known.has(merged) || merged.length > 12) continue;
    known.add(merged);
    tokens.push(merged);
    merges.push(`${left} ${right}`);
  }
  return merges;
}

/** Makes a tokenizer of each kind: pre-tokenizers of GGUF files, normalizers, unknown tokens, flags of added tokens. */
export async function tokenizerSources(): Promise<readonly (TokenizerSource & { readonly name: string })[]> {
  const folders = [join(import.meta.dirname, "../../models/pocket"), sharedModel("smollm2-135m-instruct")];
  const loaded = await Promise.all(
    folders.map(async (folder) => {
      const tokenizer = folder && (await readJsonFile(join(folder, "tokenizer.json"), 2 ** 28));
      return folder && tokenizer ? [{ name: folder.split("/").at(-1) ?? "", path: folder, tokenizer }] : [];
    }),
  );
  const gguf = [...GGUF_PRE_TOKENIZERS.keys()].map((pre) => {
    const tokens = byteLevelTokens(BYTE_MERGES, ["<|im_start|>", "<|im_end|>", "<think>"]);
    const token_type = Int32Array.from(tokens, (token) =>
      token === "<think>" ? 4 : token.startsWith("<|im_") ? 3 : 1,
    );
    return {
      name: pre,
      ...ggufTokenizerSource(ggufMetadata({ model: "gpt2", pre, tokens, token_type, merges: BYTE_MERGES }), pre),
    };
  });
  return [
    ...loaded.flat(),
    ...gguf,
    ...Object.entries(MADE).map(([name, tokenizer]) => ({ name, path: name, tokenizer })),
  ];
}

const ASCII = Array.from("Ġabclowrdmei'stS.<|_n>Ċ");
const BYTE_MERGES = [
  "Ġ Ġ",
  "ĠĠ ĠĠ",
  "Ċ Ċ",
  "a a",
  "aa aa",
  "aaaa aaaa",
  "< |",
  "<| i",
  "<|i m",
  "<|im _",
  "Ì ģ",
  "Ã ©",
  "ð Ł",
  "ðŁ ĺ",
  "1 1",

  ...randomMerges(ASCII, 150, 3),
].filter((merge, index, all) => all.findIndex((other) => other.replace(" ", "") === merge.replace(" ", "")) === index);

const SPM_TOKENS = ["<unk>", "<s>", "</s>", ...Array.from("▁abcehlowrd.ne1'<|im_>\n"), "é", "中"];
const SPM_MERGES = ["▁ ▁", "▁▁ ▁▁", "a a", "aa aa", ...randomMerges(Array.from("▁abcehlowrd"), 120, 5)].filter(
  (merge, index, all) => all.findIndex((other) => other.replace(" ", "") === merge.replace(" ", "")) === index,
);
const BYTES = CHARACTER_OF_BYTE.map((_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
const spmModel = (more: readonly string[], parts: JsonObject): JsonObject =>
  bpeModel([...SPM_TOKENS, ...more, ...SPM_MERGES.map((merge) => merge.replace(" ", ""))], SPM_MERGES, {
    unk_token: "<unk>",
    ...parts,
  });
const escape = { type: "Replace", pattern: { String: " " }, content: "▁" };
const spmDecoder = {
  type: "Sequence",
  decoders: [{ type: "Replace", pattern: { String: "▁" }, content: " " }, { type: "ByteFallback" }, { type: "Fuse" }],
};
const template = (id: string): JsonObject => {
  const single = [{ SpecialToken: { id, type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }];
  return { type: "TemplateProcessing", single, pair: single };
};
const added = (content: string, id: number, flags: JsonObject = {}): JsonObject => ({
  content,
  id,
  special: true,
  normalized: false,
  ...flags,
});
const byteModel = (parts: JsonObject = {}): JsonObject => bpeModel(byteLevelTokens(BYTE_MERGES), BYTE_MERGES, parts);

const MADE: Readonly<Record<string, ReturnType<typeof byteLevelDefinition>>> = {
  ...Object.fromEntries(
    ["NFC", "NFD", "NFKC", "NFKD"].map((type) => [
      type,
      byteLevelDefinition([], { model: byteModel(), normalizer: { type } }),
    ]),
  ),
  "added tokens with flags": byteLevelDefinition([], {
    model: byteModel(),
    normalizer: { type: "NFC" },
    added_tokens: [
      added("<|im_end|>", 1000, { lstrip: true }),
      added("<|im_start|>", 1001, { rstrip: true }),
      added("<|im_", 1002, { lstrip: true, rstrip: true }),
      added("\n\n", 1003, { special: false }),
      added("e\u0301", 1004, { special: false, normalized: true }),
      added("aA", 1005, { special: false, normalized: true, rstrip: true }),
    ],
  }),
  "missing bytes": byteLevelDefinition([], {
    model: bpeModel([...Array.from("abcdefgĠ!<|_>im"), "aa", "Ġa"], ["a a", "Ġ a"]),
  }),
  "a prefix": byteLevelDefinition([], {
    model: byteModel(),
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: true },
  }),
  "removed and literal splits": byteLevelDefinition([], {
    model: byteModel(),
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { String: "ab" }, behavior: "Isolated", invert: true },
        { type: "Split", pattern: { Regex: String.raw`\w+|\s+|<` }, behavior: "Removed", invert: true },
        { type: "ByteLevel", use_regex: false },
      ],
    },
  }),
  "ignored merges": byteLevelDefinition([], {
    model: bpeModel(byteLevelTokens(BYTE_MERGES, ["hello", "Ġworld", "a".repeat(700)]), BYTE_MERGES, {
      ignore_merges: true,
    }),
    post_processor: template("a"),
  }),
  llama: byteLevelDefinition([], {
    model: spmModel(BYTES, { byte_fallback: true, fuse_unk: true }),
    normalizer: { type: "Sequence", normalizers: [{ type: "Prepend", prepend: "▁" }, escape] },
    pre_tokenizer: null,
    decoder: spmDecoder,
    post_processor: template("<s>"),
    added_tokens: [
      added("<s>", 1),
      added("<|im_end|>", 2000),
      added("\n\n\n", 2001, { special: false, normalized: true }),
    ],
  }),
  "fused unknown": byteLevelDefinition([], {
    model: spmModel([], { fuse_unk: true }),
    normalizer: escape,
    pre_tokenizer: null,
    decoder: spmDecoder,
  }),
  "unknown one by one": byteLevelDefinition([], {
    model: spmModel([], {}),
    normalizer: escape,
    pre_tokenizer: null,
    decoder: spmDecoder,
  }),
  "no unknown": byteLevelDefinition([], {
    model: spmModel([], { unk_token: null }),
    normalizer: escape,
    pre_tokenizer: null,
    decoder: spmDecoder,
  }),
  "some bytes": byteLevelDefinition([], {
    model: spmModel(BYTES.slice(0, 200), { byte_fallback: true }),
    pre_tokenizer: null,
    decoder: spmDecoder,
  }),
  "replaced words": byteLevelDefinition([], {
    model: byteModel(),
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Replace", pattern: { String: "aA" }, content: "b" },
        { type: "Replace", pattern: { Regex: " {2,}" }, content: " " },
        { type: "Prepend", prepend: "x" },
        { type: "NFKC" },
      ],
    },
  }),
  ...Object.fromEntries(
    ["always", "first", "never"].flatMap((prepend_scheme) =>
      [true, false].map((split) => [
        `metaspace ${prepend_scheme} ${split}`,
        byteLevelDefinition([], {
          model: spmModel(BYTES, { byte_fallback: true }),
          pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme, split },
          decoder: spmDecoder,
          added_tokens: [added("<|im_end|>", 2000)],
        }),
      ]),
    ),
  ),
};
