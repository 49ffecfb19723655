// Folders of tiny encoders with a tokenizer of some words, as sentence-transformers and cross-encoders have them.

import { copyFile, cp, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fixture } from "./fixtures.ts";
import { persistentFolder } from "./temporary-folder.ts";

const SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
const LETTERS = Array.from("abcdefghijklmnopqrstuvwxyz");
/** Words of texts for `writeEncoder`. */
export const WORDS: readonly string[] = ["dog", "runs", "house", "green", "paper", "walk", "##ing", ".", ","];

/** 66 tokens, all below the 128 of the fixtures' vocabularies: letters spell every other word. */
const VOCABULARY = [...SPECIAL, ...LETTERS, ...LETTERS.map((letter) => `##${letter}`), ...WORDS];

const special = (id: string, type_id: number) => ({ SpecialToken: { id, type_id } });
const sequence = (id: string, type_id: number) => ({ Sequence: { id, type_id } });

const TOKENIZER = {
  version: "1.0",
  added_tokens: SPECIAL.map((content, id) => ({ id, content, special: true, normalized: false })),
  normalizer: { type: "BertNormalizer", clean_text: true, handle_chinese_chars: true, lowercase: true },
  pre_tokenizer: { type: "BertPreTokenizer" },
  post_processor: {
    type: "TemplateProcessing",
    single: [special("[CLS]", 0), sequence("A", 0), special("[SEP]", 0)],
    pair: [special("[CLS]", 0), sequence("A", 0), special("[SEP]", 0), sequence("B", 1), special("[SEP]", 1)],
    special_tokens: Object.fromEntries(SPECIAL.map((id, index) => [id, { id, ids: [index], tokens: [id] }])),
  },
  decoder: { type: "WordPiece", prefix: "##", cleanup: true },
  model: {
    type: "WordPiece",
    unk_token: "[UNK]",
    continuing_subword_prefix: "##",
    max_input_chars_per_word: 100,
    vocab: Object.fromEntries(VOCABULARY.map((text, id) => [text, id])),
  },
};

/** Modules of sentence-transformers: the mean, with length 1. */
export const MODULES: readonly object[] = ["Transformer", "Pooling", "Normalize"].map((name, index) => ({
  idx: index,
  name: String(index),
  path: index === 0 ? "" : `${index}_${name}`,
  type: `sentence_transformers.models.${name}`,
}));

/**
 * Writes the folder of an encoder of `test/fixtures/encoders`.
 * @param files - further files, or others in place of those
 */
export async function writeEncoder(name: string, files: Readonly<Record<string, unknown>> = {}): Promise<string> {
  const folder = join(await persistentFolder(), name);
  await cp(fixture(`encoders/${name}`), folder, { recursive: true });
  for (const [file, value] of Object.entries({ "tokenizer.json": TOKENIZER, ...files })) {
    await mkdir(dirname(join(folder, file)), { recursive: true });
    await writeFile(join(folder, file), JSON.stringify(value));
  }
  return folder;
}

/** Classes of transformers by what they give, behind the family's own part of the name. */
const CLASSES = { classify: "ForSequenceClassification", tag: "ForTokenClassification", fill: "ForMaskedLM" } as const;

/**
 * Writes an encoder of `encoders/<family>-heads`, whose file has all heads.
 * @param config - further fields of config.json
 */
export async function writeHead(family: string, head: keyof typeof CLASSES, config: object = {}): Promise<string> {
  const text = await readFile(join(fixture(`encoders/${family}-heads`), "config.json"), "utf8");
  const all = JSON.parse(text) as { readonly architectures: readonly [string] };
  const architectures = [all.architectures[0].replace(/For.*$/, CLASSES[head])];
  return writeEncoder(`${family}-heads`, { "config.json": { ...all, architectures, ...config } });
}

/** Files of the tokenizer that the hosts need besides. */
const HOST_TOKENIZER = {
  tokenizer_class: "BertTokenizer",
  model_max_length: 48,
  pad_token: "[PAD]",
  cls_token: "[CLS]",
  sep_token: "[SEP]",
  unk_token: "[UNK]",
  mask_token: "[MASK]",
};

/**
 * Makes of an encoder's folder what repositories for transformers.js are: with an ONNX file alone.
 * @param file - of `encoders-onnx`, without its ending
 */
export async function withOnnx(folder: string, file: string): Promise<string> {
  await rm(join(folder, "model.safetensors"));
  await mkdir(join(folder, "onnx"));
  await copyFile(fixture(`encoders-onnx/${file}.onnx`), join(folder, "onnx", "model.onnx"));
  await writeFile(join(folder, "tokenizer_config.json"), JSON.stringify(HOST_TOKENIZER));
  return folder;
}

/** Writes an encoder whose results are means of length 1. */
export async function writeEmbedder(name: string, maxTokens?: number): Promise<string> {
  const length = maxTokens === undefined ? {} : { "sentence_bert_config.json": { max_seq_length: maxTokens } };
  const pooling = { "1_Pooling/config.json": { pooling_mode_mean_tokens: true } };
  return writeEncoder(name, { "modules.json": MODULES, ...pooling, ...length });
}
