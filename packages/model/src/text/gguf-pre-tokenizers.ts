// The pre-tokenizers that `tokenizer.ggml.pre` names. The patterns are those of the original
// tokenizer.json; llama.cpp (src/llama-vocab.cpp, `llm_tokenizer_bpe`) has the same in its own dialect.

import { GPT2_PATTERN } from "./reference-parity.ts";

/** What `tokenizer.ggml.pre` stands for. */
export interface GgufPreTokenizer {
  /** Each cuts the pieces of the one before; what matches and what lies between are pieces. */
  readonly patterns: readonly string[];
  /** A piece that is a token as a whole is not merged. */
  readonly ignoresMerges?: boolean;
  /** Whether a BOS token comes first when the file does not say. */
  readonly addsBos?: boolean;
  readonly normalizer?: "NFC";
}

const LLAMA3_PATTERN = withDigits(String.raw`\p{N}{1,3}`);
const QWEN2_PATTERN = withDigits(String.raw`\p{N}`);

const TEKKEN_UPPER = String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`;
const TEKKEN_LOWER = String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`;
const TEKKEN_PATTERN = [
  String.raw`[^\r\n\p{L}\p{N}]?${TEKKEN_UPPER}*${TEKKEN_LOWER}+`,
  String.raw`[^\r\n\p{L}\p{N}]?${TEKKEN_UPPER}+${TEKKEN_LOWER}*`,
  String.raw`\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
].join("|");

const GPT2: GgufPreTokenizer = { patterns: [GPT2_PATTERN] };
const SMOLLM: GgufPreTokenizer = { patterns: [String.raw`\p{N}`, GPT2_PATTERN] };
const LLAMA3: GgufPreTokenizer = { patterns: [LLAMA3_PATTERN], ignoresMerges: true, addsBos: true };
const QWEN2: GgufPreTokenizer = { patterns: [QWEN2_PATTERN], normalizer: "NFC" };

/** By the value of `tokenizer.ggml.pre`. */
export const GGUF_PRE_TOKENIZERS: ReadonlyMap<string, GgufPreTokenizer> = new Map([
  // What llama.cpp does with files that were made before the key was, or for a model it did not know.
  ["default", { patterns: [String.raw`[\p{P}\$\+<=>\^~\|]+`, GPT2_PATTERN, String.raw`\p{N}+`, "[0-9][0-9][0-9]"] }],
  ["gpt-2", GPT2],
  ["phi-2", GPT2],
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
  ["tekken", { patterns: [TEKKEN_PATTERN], ignoresMerges: true, addsBos: true }],
]);

/** The pattern of Llama 3 and Qwen 2, which differ in how many digits make a piece. */
function withDigits(digits: string): string {
  const words = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+`;
  return String.raw`${words}|${digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
}
