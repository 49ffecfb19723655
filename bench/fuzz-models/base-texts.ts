// Small tokenizers and a chat template, as valid files have them.

import type { Metadata } from "../../test/support/gguf/convert-model.ts";
import { CHARACTER_OF_BYTE } from "../../packages/model/src/text/pre-tokenizer.ts";

type Value = Metadata extends ReadonlyMap<string, infer Inner> ? Inner : never;

const SPECIAL = ["<s>", "</s>", "<unk>", "<think>", "</think>"];
const MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "1 2", "a a", "aa aa", "Ġ Ġ"];
const PIECES = ["▁", "a", "b", "h", "e", "l", "o", "he", "ll", "hell", "hello", "▁a", "▁hello"];
const SPLIT = String.raw`'s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

const byteTokens = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);

function idsOf(tokens: readonly string[]): Readonly<Record<string, number>> {
  return Object.fromEntries(tokens.map((token, id) => [token, id]));
}

function addedTokens(tokens: readonly string[]): readonly object[] {
  return SPECIAL.map((content) => ({ id: tokens.indexOf(content), content, special: true, normalized: false }));
}

const byteLevelTokens = [...SPECIAL, ...CHARACTER_OF_BYTE, ...MERGES.map((merge) => merge.replace(" ", ""))];

/** Makes a tokenizer.json of byte-level BPE, with 272 tokens. */
export function byteLevelJson(): object {
  return {
    version: "1.0",
    added_tokens: addedTokens(byteLevelTokens),
    normalizer: {
      type: "Sequence",
      normalizers: [{ type: "NFC" }, { type: "Replace", pattern: { Regex: "[ \\t]{2,}" }, content: " " }],
    },
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: SPLIT }, behavior: "Isolated", invert: false },
        { type: "Digits", individual_digits: true },
        { type: "ByteLevel", add_prefix_space: false, use_regex: false },
      ],
    },
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }],
      special_tokens: { "<s>": { id: "<s>", ids: [0], tokens: ["<s>"] } },
    },
    decoder: { type: "ByteLevel" },
    model: { type: "BPE", vocab: idsOf(byteLevelTokens), merges: MERGES, ignore_merges: true },
  };
}

const pieceTokens = [...SPECIAL, ...byteTokens, ...PIECES];

/** Makes a tokenizer.json of SentencePiece's BPE with tokens of bytes. */
export function sentencePieceJson(): object {
  return {
    added_tokens: addedTokens(pieceTokens),
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "▁" },
        { type: "Replace", pattern: { String: " " }, content: "▁" },
      ],
    },
    pre_tokenizer: null,
    post_processor: null,
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    model: {
      type: "BPE",
      unk_token: "<unk>",
      fuse_unk: true,
      byte_fallback: true,
      vocab: idsOf(pieceTokens),
      merges: [
        ["h", "e"],
        ["l", "l"],
        ["he", "ll"],
        ["hell", "o"],
        ["▁", "hello"],
        ["▁", "a"],
      ],
    },
  };
}

export const TOKENIZER_CONFIG: object = {
  bos_token: "<s>",
  eos_token: { content: "</s>", special: true },
  unk_token: "<unk>",
  model_max_length: 256,
};

/** Makes the metadata of the byte-level tokenizer in a GGUF file. */
export function ggufTokenizer(): Metadata {
  const types = byteLevelTokens.map((_, id) => (id < SPECIAL.length ? 3 : 1));
  // As many as the embedding has rows.
  const unused = Array.from({ length: 300 - byteLevelTokens.length }, (_, index) => `[UNUSED_${index}]`);
  return new Map<string, Value>([
    ["tokenizer.ggml.model", { type: "string", value: "gpt2" }],
    ["tokenizer.ggml.pre", { type: "string", value: "llama-bpe" }],
    ["tokenizer.ggml.tokens", { type: "array", of: "string", value: [...byteLevelTokens, ...unused] }],
    ["tokenizer.ggml.token_type", { type: "array", of: "int32", value: [...types, ...unused.map(() => 5)] }],
    ["tokenizer.ggml.scores", { type: "array", of: "float32", value: Array.from({ length: 300 }, (_, id) => -id) }],
    ["tokenizer.ggml.merges", { type: "array", of: "string", value: MERGES }],
    ["tokenizer.ggml.bos_token_id", { type: "uint32", value: 0 }],
    ["tokenizer.ggml.eos_token_id", { type: "uint32", value: 1 }],
    ["tokenizer.ggml.unknown_token_id", { type: "uint32", value: 2 }],
    ["tokenizer.ggml.add_bos_token", { type: "bool", value: true }],
    ["tokenizer.chat_template", { type: "string", value: TEMPLATE }],
    ["general.sampling.temp", { type: "float32", value: 0.5 }],
  ]);
}

export const TEMPLATE = `{%- set ns = namespace(found=false, text='') -%}
{%- macro show(content) -%}{{ content | trim | replace('a', 'b') }}{%- endmacro -%}
{{- bos_token -}}
{%- if tools %}{% for tool in tools %}{{ tool | tojson(indent=2) }}{% endfor %}{% endif -%}
{%- for message in messages -%}
  {%- if message.role == 'system' and not ns.found -%}{%- set ns.found = true -%}{%- endif -%}
  {%- if message['role'] not in ['user', 'assistant', 'system', 'tool'] -%}{{ raise_exception('Unknown role') }}{%- endif -%}
  {{ '<|' ~ message.role ~ '|>' + show(message.content if message.content is string else '') }}
  {%- for call in message.tool_calls or [] -%}{{ call.function.name | upper }}{{ call.function.arguments | tojson }}{%- endfor -%}
  {{ eos_token if loop.last else loop.index0 }}
{%- endfor -%}
{%- for i in range(3) %}{{ i * 2 }}{% endfor -%}
{%- if add_generation_prompt %}<|assistant|>{{ strftime_now('%Y') | length }}{% endif -%}`;
