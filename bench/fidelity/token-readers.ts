// Token ids as other programs read a text.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { text as textOf } from "node:stream/consumers";
import { pathToFileURL } from "node:url";

type TokenLists = readonly (readonly number[])[];

/** Used part of node-llama-cpp, which is not a dependency of this repository. */
interface Library {
  readonly getLlama: (options: object) => Promise<{
    loadModel(options: object): Promise<{ tokenize(text: string): number[] }>;
    dispose(): Promise<void>;
  }>;
}

/** Reads texts with the vocabulary of a GGUF file, without special tokens. */
export async function llamaTokens(
  { library, path }: { readonly library: string; readonly path: string },
  texts: readonly string[],
): Promise<TokenLists> {
  const { getLlama } = (await import(pathToFileURL(library).href)) as Library;
  const llama = await getLlama({ build: "never", gpu: false, logLevel: "error" });
  try {
    const model = await llama.loadModel({ modelPath: path, vocabOnly: true });
    return texts.map((text) => Array.from(model.tokenize(text)));
  } finally {
    await llama.dispose();
  }
}

interface Transformers {
  /** Folder with tokenizer.json and tokenizer_config.json. */
  readonly folder: string;
  /** Interpreter of an environment with the package `transformers`. */
  readonly python: string;
  readonly signal: AbortSignal | undefined;
}

/** Reads texts with the tokenizer of a folder, without special tokens. @throws {Error} when Python fails */
export async function transformersTokens(
  { folder, python, signal }: Transformers,
  texts: readonly string[],
): Promise<TokenLists> {
  const script = join(import.meta.dirname, "tokens.py");
  const child = spawn(python, [script, folder], { stdio: ["pipe", "pipe", "inherit"], ...(signal && { signal }) });
  const ended = once(child, "exit");
  child.stdin.end(JSON.stringify(texts));
  const answer = await textOf(child.stdout);
  const [code] = (await ended) as [number | null];
  if (code !== 0) throw new Error(`Python ended with code ${String(code)}`);
  return JSON.parse(answer) as TokenLists;
}
