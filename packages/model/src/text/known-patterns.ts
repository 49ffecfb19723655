// Patterns of tokenizers that are known by their text. JavaScript's own search takes linear time for them, and is
// faster than the search for patterns that are not known.

/** Pattern of GPT-2, which is built into a `ByteLevel` pre-tokenizer. */
export const GPT2_PATTERN: string = String.raw`'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

/** Patterns of `Digits`, one by one and together. */
export const NUMBER_PATTERN: string = String.raw`\p{N}`;
export const NUMBERS_PATTERN: string = String.raw`\p{N}+`;

// These are the patterns of the original tokenizer.json files; llama.cpp (src/llama-vocab.cpp, `llm_tokenizer_bpe`) has
// the same in its own dialect.

/** Pattern of Llama 3 and Qwen 2, which differ in the number of digits in a piece. */
const withDigits = (digits: string): string => {
  const words = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+`;
  return String.raw`${words}|${digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
};
export const LLAMA3_PATTERN: string = withDigits(String.raw`\p{N}{1,3}`);
export const QWEN2_PATTERN: string = withDigits(String.raw`\p{N}`);

const CASE_UPPER = String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`;
const CASE_LOWER = String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`;

/** Pattern of Tekken and of GPT-4o, which differ in what may end a word and in the number of digits in a piece. */
const withCases = (ending: string, digits: string): string =>
  [
    String.raw`[^\r\n\p{L}\p{N}]?${CASE_UPPER}*${CASE_LOWER}+${ending}`,
    String.raw`[^\r\n\p{L}\p{N}]?${CASE_UPPER}+${CASE_LOWER}*${ending}`,
    String.raw`${digits}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
  ].join("|");
export const TEKKEN_PATTERN: string = withCases("", String.raw`\p{N}`);
export const GPT4O_PATTERN: string = withCases("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", String.raw`\p{N}{1,3}`);

/** Patterns of llama.cpp's default, one after another. */
export const DEFAULT_PATTERNS: readonly string[] = [
  String.raw`[\p{P}\$\+<=>\^~\|]+`,
  GPT2_PATTERN,
  NUMBERS_PATTERN,
  "[0-9][0-9][0-9]",
];

/** Tells whether JavaScript's own search can be trusted with a pattern. */
export const KNOWN_PATTERNS: ReadonlySet<string> = new Set([
  ...DEFAULT_PATTERNS,
  NUMBER_PATTERN,
  LLAMA3_PATTERN,
  QWEN2_PATTERN,
  TEKKEN_PATTERN,
  GPT4O_PATTERN,
]);
