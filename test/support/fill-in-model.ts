// A tiny model that reads text and has the marks of Qwen's coders, as ordinary added tokens, which their files call them.

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { persistentFolder } from "./temporary-folder.ts";
import { type TinyOptions, WITH_TOKENIZER } from "./tiny-read-me.ts";

export const QWEN_MARKS = {
  prefix: "<|fim_prefix|>",
  middle: "<|fim_middle|>",
  suffix: "<|fim_suffix|>",
  pad: "<|fim_pad|>",
  repository: "<|repo_name|>",
  file: "<|file_sep|>",
} as const;

/** Makes the options of a tiny model with marks. The first of them has the id 4096. */
export async function withFillInMarks(): Promise<Required<Pick<TinyOptions, "vocabSize" | "copies">>> {
  const { vocabSize, copies } = WITH_TOKENIZER;
  const tokenizer = JSON.parse(await readFile(copies[0] ?? "", "utf8")) as { added_tokens: object[] };
  const flags = { special: false, normalized: false, single_word: false, lstrip: false, rstrip: false };
  const marks = Object.values(QWEN_MARKS).map((content, index) => ({ id: vocabSize + index, content, ...flags }));
  tokenizer.added_tokens.push(...marks);
  const path = join(await persistentFolder(), "tokenizer.json");
  await writeFile(path, JSON.stringify(tokenizer));
  return { vocabSize: vocabSize + marks.length, copies: [path, ...copies.slice(1)] };
}
