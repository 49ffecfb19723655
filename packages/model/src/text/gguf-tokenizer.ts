// Builds the contents of tokenizer.json and tokenizer_config.json from a GGUF file's metadata.

import { describeValue } from "@readme-moe/core";
import { corrupt, quoted, unsupported } from "../files/errors.ts";
import type { JsonObject } from "../files/read-file.ts";
import type { GgufMetadata, GgufValue } from "../gguf/header.ts";
import { FILL_IN_ROLES } from "./fill-in-marks.ts";
import {
  DEFAULT_PATTERNS,
  GPT2_PATTERN,
  GPT4O_PATTERN,
  LLAMA3_PATTERN,
  NUMBER_PATTERN,
  QWEN2_PATTERN,
  TEKKEN_PATTERN,
} from "./known-patterns.ts";
import { isolate } from "./pipeline.ts";
import { Tokenizer, type TokenizerSource } from "./tokenizer.ts";

// Merges are derived from all splits of a token, so hostile tokens must not be long. Real ones have tens of characters.
const MAX_SCORED_TOKEN_LENGTH = 1024;
// Deriving them takes the squares of lengths, which are some 2 ** 24 together in a vocabulary of 2 ** 18 tokens.
const MAX_SCORED_SQUARES = 2 ** 28;

/** Roles, and the names of their keys; the first key that a file has counts. */
const ROLES: readonly (readonly [role: string, ...keys: string[]])[] = [
  ["bos_token", "bos"],
  ["eos_token", "eos"],
  ["unk_token", "unknown"],
  ["pad_token", "padding"],
  ["cls_token", "cls"],
  ["sep_token", "seperator"],
  ["mask_token", "mask"],
  ...FILL_IN_ROLES,
];

/**
 * Makes the tokenizer in a GGUF file's metadata: byte-level BPE (`gpt2`), SentencePiece's BPE (`llama`, and with merges
 * `gemma4`) or its unigram model (`t5`), or WordPiece (`bert`).
 * @param path - path that messages name
 * @throws {ReadMeError} `ERR_FILE_CORRUPT` naming the key; `ERR_MODEL_UNSUPPORTED` naming the kind of tokenizer or of
 *   pre-tokenizer that this project does not have
 */
export function ggufTokenizer(metadata: GgufMetadata, path: string): Tokenizer {
  return new Tokenizer(ggufTokenizerSource(metadata, path));
}

/** Makes the source of that tokenizer. @throws as `ggufTokenizer` */
export function ggufTokenizerSource(metadata: GgufMetadata, path: string): TokenizerSource {
  const model = metadata.get("tokenizer.ggml.model");
  if (typeof model !== "string" || !KINDS.includes(model)) {
    const value = describeValue(model);
    throw model === undefined || typeof model === "string"
      ? unsupported(path, `metadata \`tokenizer.ggml.model\` ${value} is not supported; known are ${KINDS.join(", ")}`)
      : corrupt(path, `metadata \`tokenizer.ggml.model\`: expected a string, got ${value}`);
  }
  const vocabulary = new GgufVocabulary(metadata, path);
  const config = Object.fromEntries(
    ROLES.map(([role, ...names]) => {
      const tokens = names.flatMap((name) => vocabulary.tokenOf(`tokenizer.ggml.${name}_token_id`) ?? []);
      return [role, tokens[0]];
    }),
  );
  if (model === "bert") return { path, tokenizer: wordPiece(vocabulary), config };
  if (model === "t5") return { path, tokenizer: unigram(vocabulary, metadata), config };
  if (model === "llama") return { path, tokenizer: sentencePieceBpe(vocabulary, config, scoredMerges), config };
  if (model === "gemma4") {
    const merges = vocabulary.texts("tokenizer.ggml.merges");
    return { path, tokenizer: sentencePieceBpe(vocabulary, config, () => merges), config };
  }
  return { path, tokenizer: byteLevelBpe(vocabulary, config), config, ids: vocabulary.ids };
}

/** Values of `tokenizer.ggml.model`. */
const KINDS: readonly string[] = ["gpt2", "llama", "gemma4", "bert", "t5"];

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
      // Made for exports alone: an object of so many properties takes a tenth of a second.
      get vocab() {
        return Object.fromEntries(vocabulary.ids);
      },
      merges: vocabulary.texts("tokenizer.ggml.merges"),
      ignore_merges: pre.ignoresMerges ?? false,
    },
  };
}

/** Follows the tokenizer.json of Llama 2: spaces are `▁`, one precedes the text, unknown characters are bytes. */
function sentencePieceBpe(
  vocabulary: GgufVocabulary,
  roles: Roles,
  mergesOf: (vocabulary: GgufVocabulary, spelled: SpelledTokens) => readonly unknown[],
): JsonObject {
  const { tokens, types } = vocabulary;
  const spelled = withEscapedSpaces(vocabulary);
  const addsSpace = vocabulary.boolean("tokenizer.ggml.add_space_prefix", true);
  const escape = { type: "Replace", pattern: { String: " " }, content: "▁" };
  const unescape = { type: "Replace", pattern: { String: "▁" }, content: " " };
  return {
    added_tokens: addedTokens(spelled),
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
      vocab: Object.fromEntries(spelled.ids),
      merges: mergesOf(vocabulary, spelled),
      unk_token: roles["unk_token"] ?? tokens.find((_, id) => types[id] === TOKEN_TYPE.unknown) ?? null,
      fuse_unk: true,
      byte_fallback: true,
    },
  };
}

/**
 * Follows the tokenizer.json of BERT. llama.cpp's converter writes `▁` before pieces that begin a word, and leaves `##`
 * out; its own tokenizer knows lower case alone.
 */
function wordPiece(vocabulary: GgufVocabulary): JsonObject {
  const { tokens, types } = vocabulary;
  const spelled = tokens.map((token, id) => {
    if (types[id] === TOKEN_TYPE.control || types[id] === TOKEN_TYPE.unknown) return token;
    return token.startsWith("▁") ? token.slice(1) : `##${token}`;
  });
  const special = (key: string): JsonObject | undefined => {
    const id = vocabulary.tokenOf(`tokenizer.ggml.${key}_token_id`);
    return id === undefined ? undefined : { SpecialToken: { id, type_id: 0 } };
  };
  const [first, last] = [special("cls") ?? special("bos"), special("seperator") ?? special("eos")];
  if (!first || !last) throw corrupt(vocabulary.path, "metadata names no tokens around a text");
  const [text, second] = ["A", "B"].map((id, segment) => ({ Sequence: { id, type_id: segment } }));
  return {
    added_tokens: addedTokens(vocabulary),
    normalizer: { type: "BertNormalizer", clean_text: true, handle_chinese_chars: true, lowercase: true },
    pre_tokenizer: { type: "BertPreTokenizer" },
    post_processor: {
      type: "TemplateProcessing",
      single: [first, text, last],
      pair: [first, text, last, second, { SpecialToken: { ...(last["SpecialToken"] as JsonObject), type_id: 1 } }],
    },
    decoder: { type: "WordPiece", prefix: "##", cleanup: true },
    model: {
      type: "WordPiece",
      unk_token: vocabulary.tokenOf("tokenizer.ggml.unknown_token_id") ?? "[UNK]",
      continuing_subword_prefix: "##",
      vocab: Object.fromEntries(spelled.map((token, id) => [token, id])),
    },
  };
}

/** Follows the tokenizer.json of XLM-RoBERTa. */
function unigram(vocabulary: GgufVocabulary, metadata: GgufMetadata): JsonObject {
  const { tokens, path } = vocabulary;
  const scores = vocabulary.numbers("tokenizer.ggml.scores");
  if (scores === undefined) throw corrupt(path, "metadata `tokenizer.ggml.scores` is missing");
  const table = metadata.get("tokenizer.ggml.precompiled_charsmap");
  const bytes = table instanceof Uint8Array || table instanceof Int8Array ? table : undefined;
  const precompiled = { type: "Precompiled", precompiled_charsmap: Buffer.from(bytes ?? []).toString("base64") };
  const joins = vocabulary.boolean("tokenizer.ggml.remove_extra_whitespaces", false);
  const spaces = { type: "Replace", pattern: { Regex: " {2,}" }, content: " " };
  const metaspace = { type: "Metaspace", replacement: "▁", prepend_scheme: "always" };
  const special = (role: "bos" | "eos"): readonly JsonObject[] => {
    const id = vocabulary.tokenOf(`tokenizer.ggml.${role}_token_id`);
    const isAdded = vocabulary.boolean(`tokenizer.ggml.add_${role}_token`, true);
    return id === undefined || !isAdded ? [] : [{ SpecialToken: { id, type_id: 0 } }];
  };
  const [first, last] = [special("bos"), special("eos")];
  const [text, second] = ["A", "B"].map((id) => ({ Sequence: { id, type_id: 0 } }));
  return {
    added_tokens: addedTokens(vocabulary),
    normalizer: { type: "Sequence", normalizers: [...(bytes ? [precompiled] : []), ...(joins ? [spaces] : [])] },
    pre_tokenizer: { type: "Sequence", pretokenizers: [{ type: "WhitespaceSplit" }, metaspace] },
    post_processor: {
      type: "TemplateProcessing",
      single: [...first, text, ...last],
      pair: [...first, text, ...last, ...last, second, ...last],
    },
    decoder: metaspace,
    model: {
      type: "Unigram",
      vocab: tokens.map((token, id) => [token, scores[id] ?? 0]),
      unk_id: tokens.indexOf(vocabulary.tokenOf("tokenizer.ggml.unknown_token_id") ?? "<unk>"),
    },
  };
}

type SpelledTokens = Pick<GgufVocabulary, "tokens" | "types" | "ids">;

/**
 * Spells user-defined tokens as SentencePiece does, with `▁` for a space: llama.cpp's converter writes spaces, since it
 * looks for these tokens in a text whose spaces are not replaced yet.
 */
function withEscapedSpaces({ tokens, types, ids }: GgufVocabulary): SpelledTokens {
  const known = new Set(ids.keys());
  const spelled = tokens.map((token, id) => {
    const escaped = types[id] === TOKEN_TYPE.userDefined ? token.replaceAll(" ", "▁") : token;
    if (known.has(escaped)) return token;
    known.add(escaped);
    return escaped;
  });
  return { tokens: spelled, types, ids: new Map(spelled.map((token, id) => [token, id])) };
}

/** Derives merges from the scores of a file. @throws {ReadMeError} `ERR_FILE_CORRUPT` */
function scoredMerges(vocabulary: GgufVocabulary, spelled: SpelledTokens): readonly (readonly [string, string])[] {
  const { path, tokens } = vocabulary;
  const scores = vocabulary.numbers("tokenizer.ggml.scores");
  if (scores === undefined) throw corrupt(path, "metadata `tokenizer.ggml.scores` is missing");
  const longest = tokens.find((token) => token.length > MAX_SCORED_TOKEN_LENGTH);
  if (longest !== undefined) {
    throw corrupt(path, `metadata \`tokenizer.ggml.tokens\`: a token has ${longest.length} characters`);
  }
  if (tokens.reduce((sum, { length }) => sum + length ** 2, 0) > MAX_SCORED_SQUARES) {
    throw corrupt(path, "metadata `tokenizer.ggml.tokens`: the tokens are too long together");
  }
  return mergesByScore(spelled, scores);
}

/**
 * Derives merges for SentencePiece's BPE, which stores scores instead: it joins the neighbours that make the token of
 * the highest score. The order is that of transformers (`generate_merges` of convert_slow_tokenizer.py): highest score
 * first, and of equal scores the longer left piece. User-defined tokens come before all others, as in SentencePiece,
 * whatever scores the file gives them.
 *
 * @param scores - by id, `[numTokens]`
 */
function mergesByScore({ tokens, types, ids }: SpelledTokens, scores: ArrayLike<number>): [string, string][] {
  const mergeable = new Set<number | undefined>([TOKEN_TYPE.normal, TOKEN_TYPE.userDefined, TOKEN_TYPE.unused]);
  const merges: { readonly left: string; readonly right: string; readonly score: number }[] = [];
  for (const [id, token] of tokens.entries()) {
    if (!mergeable.has(types[id])) continue;
    const score = types[id] === TOKEN_TYPE.userDefined ? Number.MAX_VALUE : (scores[id] ?? 0);
    for (let at = 1; at < token.length; at++) {
      const left = token.slice(0, at);
      const right = token.slice(at);
      if (ids.has(left) && ids.has(right)) merges.push({ left, right, score });
    }
  }
  merges.sort((a, b) => b.score - a.score || b.left.length - a.left.length || b.right.length - a.right.length);
  return merges.map(({ left, right }) => [left, right]);
}

/** Lists control tokens, which steer the model, and user-defined ones, which are text that is never merged. */
function addedTokens({ tokens, types }: SpelledTokens): JsonObject[] {
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

/** A pre-tokenizer that `tokenizer.ggml.pre` names. */
interface GgufPreTokenizer {
  /** Patterns, each of which cuts the pieces of the one before; matches and the text between them are pieces. */
  readonly patterns: readonly string[];
  /** Whether a piece that is a token as a whole is not merged. */
  readonly ignoresMerges?: boolean;
  /** Whether a BOS token comes first when the file does not say. */
  readonly addsBos?: boolean;
  readonly normalizer?: "NFC";
}

const GPT2: GgufPreTokenizer = { patterns: [GPT2_PATTERN] };
const SMOLLM: GgufPreTokenizer = { patterns: [NUMBER_PATTERN, GPT2_PATTERN] };
const LLAMA3: GgufPreTokenizer = { patterns: [LLAMA3_PATTERN], ignoresMerges: true, addsBos: true };
const QWEN2: GgufPreTokenizer = { patterns: [QWEN2_PATTERN], normalizer: "NFC" };

/** Pre-tokenizers by the value of `tokenizer.ggml.pre`. */
export const GGUF_PRE_TOKENIZERS: ReadonlyMap<string, GgufPreTokenizer> = new Map([
  // llama.cpp's choice for files that are older than the key, and for unknown models.
  ["default", { patterns: DEFAULT_PATTERNS }],
  ["gpt-2", GPT2],
  ["phi-2", GPT2],
  ["olmo", GPT2],
  ["smollm", SMOLLM],
  ["starcoder", SMOLLM],
  ["refact", SMOLLM],
  ["llama-bpe", LLAMA3],
  ["llama3", LLAMA3],
  ["llama-v3", LLAMA3],
  ["smaug-bpe", { patterns: [LLAMA3_PATTERN] }],
  ["dbrx", { patterns: [LLAMA3_PATTERN] }],
  ["qwen2", QWEN2],
  ["deepseek-r1-qwen", QWEN2],
  ["gpt-4o", { patterns: [GPT4O_PATTERN] }],
  ["llama4", { patterns: [GPT4O_PATTERN] }],
  ["tekken", { patterns: [TEKKEN_PATTERN], ignoresMerges: true, addsBos: true }],
]);

function preTokenizerOf(vocabulary: GgufVocabulary): GgufPreTokenizer {
  const key = "tokenizer.ggml.pre";
  const name = vocabulary.text(key) ?? "default";
  const pre = GGUF_PRE_TOKENIZERS.get(name);
  if (pre !== undefined) return pre;
  const known = [...GGUF_PRE_TOKENIZERS.keys()].join(", ");
  throw unsupported(vocabulary.path, `metadata \`${key}\` ${describeValue(name)} is not supported; known are ${known}`);
}

/** Values of `tokenizer.ggml.token_type`. */
export const TOKEN_TYPE = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** The vocabulary in a GGUF file's metadata, checked. */
class GgufVocabulary {
  readonly path: string;
  /** Token texts by id, all different and none empty. */
  readonly tokens: readonly string[]; // [numTokens]
  /** Values of `TOKEN_TYPE`; all normal when the file gives none. */
  readonly types: ArrayLike<number>; // [numTokens]
  readonly ids: ReadonlyMap<string, number>;
  readonly #metadata: GgufMetadata;

  /** @throws {ReadMeError} `ERR_FILE_CORRUPT` naming the key */
  constructor(metadata: GgufMetadata, path: string) {
    this.path = path;
    this.#metadata = metadata;
    const tokens = this.texts("tokenizer.ggml.tokens");
    // Empty tokens only keep the place of their id; llama.cpp gives them the same names.
    this.tokens = tokens.map((token, id) => (token === "" ? `[EMPTY_${id}]` : token));
    const ids = new Map<string, number>();
    for (const [id, token] of this.tokens.entries()) {
      const other = ids.get(token);
      if (other !== undefined) {
        throw this.#corrupt("tokenizer.ggml.tokens", `has the token ${quoted(token)} twice, as ${other} and ${id}`);
      }
      ids.set(token, id);
    }
    this.ids = ids;
    this.types = this.numbers("tokenizer.ggml.token_type") ?? new Uint8Array(tokens.length).fill(TOKEN_TYPE.normal);
  }

  text(key: string): string | undefined {
    const value = this.#metadata.get(key);
    if (value === undefined || typeof value === "string") return value;
    throw this.#unexpected(key, "a string", value);
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.#metadata.get(key) ?? fallback;
    if (typeof value === "boolean") return value;
    throw this.#unexpected(key, "true or false", value);
  }

  /** Returns the text of the token whose id the file has under `key`. */
  tokenOf(key: string): string | undefined {
    const value = this.#metadata.get(key);
    if (value === undefined) return undefined;
    const token = typeof value === "number" ? this.tokens[value] : undefined;
    if (token === undefined) throw this.#unexpected(key, `an id below ${this.tokens.length}`, value);
    return token;
  }

  texts(key: string): readonly string[] {
    const value = this.#metadata.get(key);
    if (Array.isArray(value) && value.every((text: GgufValue) => typeof text === "string")) return value;
    throw this.#unexpected(key, "a list of strings", value);
  }

  /** Returns one number per token, or `undefined` when the file has none. */
  numbers(key: string): ArrayLike<number> | undefined {
    const value = this.#metadata.get(key);
    if (value === undefined) return undefined;
    if (!isNumberList(value)) throw this.#unexpected(key, "a list of numbers", value);
    if (value.length === this.tokens.length) return value;
    throw this.#corrupt(key, `has ${value.length} entries for ${this.tokens.length} tokens`);
  }

  #unexpected(key: string, expectation: string, value: unknown): Error {
    return this.#corrupt(key, `expected ${expectation}, got ${describeValue(value)}`);
  }

  #corrupt(key: string, message: string): Error {
    return corrupt(this.path, `metadata \`${key}\`: ${message}`);
  }
}

function isNumberList(value: GgufValue): value is Int32Array | Float32Array {
  return ArrayBuffer.isView(value) && !(value instanceof BigInt64Array) && !(value instanceof BigUint64Array);
}
