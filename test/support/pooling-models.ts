// The tiny models of embeddings and scores in test/fixtures/pooling, and what sentence-transformers computes with them.

import { cp, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeEngine, type OpenOptions } from "@readme-moe/engine";
import { fixture, golden } from "./fixtures.ts";
import { persistentFolder } from "./temporary-folder.ts";

interface PoolingGolden {
  readonly embeddings: readonly {
    readonly input: string;
    readonly input_ids: readonly number[];
    readonly prompt?: string;
    readonly embedding: readonly number[];
  }[];
  readonly rankings: readonly {
    readonly query: string;
    readonly instruction?: string;
    readonly documents: readonly string[];
    readonly scores: readonly number[];
    /** Number of tokens of each document's prompt. */
    readonly tokens: readonly number[];
  }[];
}

export const poolingGolden = golden("pooling") as PoolingGolden;

export const EMBEDDING_MODEL: string = fixture("pooling/embedding");

/** Files of the embedding model that the reranker has as well. */
const SHARED_FILES = ["model.safetensors", "tokenizer.json", "tokenizer_config.json"];

/** Writes the whole folder of the reranker, whose weights the repository has once. */
export async function writeReranker(name = "reranker"): Promise<string> {
  const folder = join(await persistentFolder(), name);
  await cp(fixture("pooling/reranker"), folder, { recursive: true });
  for (const file of SHARED_FILES) await cp(join(EMBEDDING_MODEL, file), join(folder, file));
  return folder;
}

/** Copies a folder and replaces some of its JSON files; `undefined` removes nothing and writes nothing. */
export async function copyWith(source: string, files: Readonly<Record<string, unknown>>): Promise<string> {
  const folder = join(await persistentFolder(), "model");
  await cp(source, folder, { recursive: true });
  for (const [name, value] of Object.entries(files)) {
    await writeFile(join(folder, name), typeof value === "string" ? value : JSON.stringify(value));
  }
  return folder;
}

/** Opens a model in a thread, with a cache of its own. */
export async function openPooling(path: string, options: OpenOptions = {}): Promise<ReadMeEngine> {
  return ReadMeEngine.open(path, {
    precision: "fp32",
    isolation: "thread",
    threads: 1,
    cacheFolder: await persistentFolder(),
    ...options,
  });
}

/** Computes the cosine of two embeddings. */
export function cosine(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [product, ofA, ofB] = [0, 0, 0];
  for (let index = 0; index < a.length; index++) {
    product += a[index]! * b[index]!;
    ofA += a[index]! ** 2;
    ofB += b[index]! ** 2;
  }
  return product / Math.sqrt(ofA * ofB);
}
