// Builds from a GGUF file's metadata what a Hugging Face folder has in tokenizer.json and tokenizer_config.json.

import { describeValue } from "@readme-moe/core";
import type { GgufMetadata } from "../gguf/metadata.ts";
import { GGUF_PRE_TOKENIZERS, type GgufPreTokenizer } from "./gguf-pre-tokenizers.ts";
import { GgufVocabulary, TOKEN_TYPE } from "./gguf-vocabulary.ts";
import { corrupt, type JsonObject, unsupported } from "../files/json-object.ts";
import { isolate } from "./reference-parity.ts";
import { mergesByScore } from "./score-merges.ts";
import { Tokenizer, type TokenizerSource } from "./tokenizer.ts";

// Deriving merges compares all splits of a token, so a hostile one must not be long. Real ones have tens.
const MAX_SCORED_TOKEN_LENGTH = 1024;

const ROLES = [
  ["bos_token", "tokenizer.ggml.bos_token_id"],
  ["eos_token", "tokenizer.ggml.eos_token_id"],
  ["unk_token", "tokenizer.ggml.unknown_token_id"],
  ["pad_token", "tokenizer.ggml.padding_token_id"],
] as const;

/**
 * The tokenizer in a GGUF file's metadata: byte-level BPE (`gpt2`) or SentencePiece BPE (`llama`).
 * @param path - where the metadata comes from, for messages
 * @throws {ReadMeError} `ERR_FILE_CORRUPT` naming the key; `ERR_MODEL_UNSUPPORTED` naming the kind of
 *   tokenizer, or of pre-tokenizer, that this project does not have
 */
export function ggufTokenizer(metadata: GgufMetadata, path: string): Tokenizer {
  return new Tokenizer(ggufTokenizerSource(metadata, path));
}

/** The same as the contents of tokenizer.json and tokenizer_config.json; throws alike. */
export function ggufTokenizerSource(metadata: GgufMetadata, path: string): TokenizerSource {
  const model = metadata.get("tokenizer.ggml.model");
  if (model !== "gpt2" && model !== "llama") {
    const value = describeValue(model);
    throw model === undefined || typeof model === "string"
      ? unsupported(path, `metadata \`tokenizer.ggml.model\` ${value} is not supported; "gpt2" and "llama" are`)
      : corrupt(path, `metadata \`tokenizer.ggml.model\`: expected a string, got ${value}`);
  }
  const vocabulary = new GgufVocabulary(metadata, path);
  const config = Object.fromEntries(ROLES.map(([role, key]) => [role, vocabulary.tokenOf(key)]));
  const tokenizer = model === "gpt2" ? byteLevelBpe(vocabulary, config) : sentencePieceBpe(vocabulary, config);
  return { path, tokenizer, config };
}

type Roles = Readonly<Record<string, string | undefined>>;

function byteLevelBpe(vocabulary: GgufVocabulary, roles: Roles): JsonObject {
  const pre = preTokenizerOf(vocabulary);
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, use_regex: false };
  return {
    added_tokens: addedTokens(vocabulary),
    normalizer: pre.normalizer === undefined ? null : { type: pre.normalizer },
    pre_tokenizer: { type: "Sequence", pretokenizers: [...pre.patterns.map(isolate), byteLevel] },
    post_processor: templateProcessing(vocabulary, roles, pre.addsBos ?? false),
    decoder: { type: "ByteLevel" },
    model: {
      type: "BPE",
      vocab: Object.fromEntries(vocabulary.ids),
      merges: vocabulary.merges(),
      ignore_merges: pre.ignoresMerges ?? false,
    },
  };
}

/** As in the tokenizer.json of Llama 2: spaces are `▁`, one goes before the text, unknown characters are bytes. */
function sentencePieceBpe(vocabulary: GgufVocabulary, roles: Roles): JsonObject {
  const { path, tokens, types, ids } = vocabulary;
  const scores = vocabulary.numbers("tokenizer.ggml.scores");
  if (scores === undefined) throw corrupt(path, "metadata `tokenizer.ggml.scores` is missing");
  const longest = tokens.find((token) => token.length > MAX_SCORED_TOKEN_LENGTH);
  if (longest !== undefined) {
    throw corrupt(path, `metadata \`tokenizer.ggml.tokens\`: a token has ${longest.length} characters`);
  }
  const canMerge = (id: number): boolean =>
    types[id] === TOKEN_TYPE.normal || types[id] === TOKEN_TYPE.userDefined || types[id] === TOKEN_TYPE.unused;
  const addsSpace = vocabulary.boolean("tokenizer.ggml.add_space_prefix", true);
  const escape = { type: "Replace", pattern: { String: " " }, content: "▁" };
  const unescape = { type: "Replace", pattern: { String: "▁" }, content: " " };
  return {
    added_tokens: addedTokens(vocabulary),
    normalizer: { type: "Sequence", normalizers: [...(addsSpace ? [{ type: "Prepend", prepend: "▁" }] : []), escape] },
    pre_tokenizer: null,
    post_processor: templateProcessing(vocabulary, roles, true),
    decoder: {
      type: "Sequence",
      decoders: [
        unescape,
        { type: "ByteFallback" },
        { type: "Fuse" },
        ...(addsSpace ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : []),
      ],
    },
    model: {
      type: "BPE",
      vocab: Object.fromEntries(ids),
      merges: mergesByScore(tokens, ids, scores, canMerge),
      unk_token: roles["unk_token"] ?? tokens.find((_, id) => types[id] === TOKEN_TYPE.unknown) ?? null,
      fuse_unk: true,
      byte_fallback: true,
    },
  };
}

function preTokenizerOf(vocabulary: GgufVocabulary): GgufPreTokenizer {
  const key = "tokenizer.ggml.pre";
  const name = vocabulary.text(key) ?? "default";
  const pre = GGUF_PRE_TOKENIZERS.get(name);
  if (pre !== undefined) return pre;
  const known = [...GGUF_PRE_TOKENIZERS.keys()].join(", ");
  throw unsupported(vocabulary.path, `metadata \`${key}\` ${describeValue(name)} is not supported; known are ${known}`);
}

/** Control tokens steer the model; user-defined ones are text that is never merged. Both are cut out first. */
function addedTokens({ tokens, types }: GgufVocabulary): JsonObject[] {
  const added: JsonObject[] = [];
  for (const [id, content] of tokens.entries()) {
    const type = types[id];
    const isSpecial = type === TOKEN_TYPE.control || type === TOKEN_TYPE.unknown;
    if (isSpecial || type === TOKEN_TYPE.userDefined)
      added.push({ id, content, special: isSpecial, normalized: false });
  }
  return added;
}

function templateProcessing(vocabulary: GgufVocabulary, roles: Roles, addsBosByDefault: boolean): JsonObject | null {
  const addsBos = vocabulary.boolean(
    "tokenizer.ggml.add_bos_token",
    addsBosByDefault && roles["bos_token"] !== undefined,
  );
  const addsEos = vocabulary.boolean("tokenizer.ggml.add_eos_token", false);
  const special = (role: "bos_token" | "eos_token"): JsonObject => {
    const id = roles[role];
    const key = role === "bos_token" ? "add_bos_token" : "add_eos_token";
    if (id === undefined)
      throw corrupt(vocabulary.path, `metadata \`tokenizer.ggml.${key}\` is true, but the file names no such token`);
    return { SpecialToken: { id, type_id: 0 } };
  };
  if (!addsBos && !addsEos) return null;
  const text = { Sequence: { id: "A", type_id: 0 } };
  const single = [...(addsBos ? [special("bos_token")] : []), text, ...(addsEos ? [special("eos_token")] : [])];
  return { type: "TemplateProcessing", single, pair: single };
}
