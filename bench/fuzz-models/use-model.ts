// Opens a damaged model as the engine does, and uses what opened.

import { ReadMeError } from "@readme-moe/core";
import { resolveEngineOptions } from "@readme-moe/engine";
import { describeModel, describeRouter, openCachedKernel } from "@readme-moe/kernel";
import {
  cachedData,
  listModels,
  type Model,
  openLora,
  openModel,
  openPromptModel,
  verifyModel,
} from "@readme-moe/model";
import { openEngine } from "../../packages/engine/src/worker/open-engine.ts";
import { loadFolderText, type ModelText } from "../../packages/model/src/text/load-text.ts";
import type { Kind } from "./bases.ts";
import type { ModelCase } from "./model-case.ts";

/** Longest message of an error, besides paths: it may quote some names, but not the file. */
const MAX_MESSAGE_CHARS = 4000;

const TEXT = `hello world 12 x${"x".repeat(40)}! aaaa  \t é 🙂 <s>x</s> [UNUSED_1] ${"ab ".repeat(30)}`;
const MESSAGES = [
  { role: "system", content: " Be brief. " },
  { role: "user", content: "hello xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" },
  { role: "assistant", content: "" },
  { role: "user", content: "a" },
] as const;

export interface Places {
  /** The case's model. */
  readonly folder: string;
  readonly cacheFolder: string;
  /** A valid model, for adapters. */
  readonly dense: Model;
}

/** @returns `opened`, or the code of the error that refused it, or what is wrong with that error */
export async function outcomeOf(one: ModelCase, places: Places): Promise<{ outcome: string; problem?: string }> {
  try {
    await USES[one.kind]({ ...places, use: one.use });
    return { outcome: "opened" };
  } catch (error) {
    if (!(error instanceof ReadMeError)) {
      const stack = error instanceof Error ? (error.stack ?? "").split("\n").slice(0, 6).join("\n") : String(error);
      return { outcome: "thrown", problem: `threw ${stack.slice(0, 1500)}` };
    }
    if (error.message.length > MAX_MESSAGE_CHARS)
      return { outcome: error.code, problem: `a message of ${error.message.length} characters` };
    if (one.way === "valid") return { outcome: error.code, problem: `refused a valid model: ${error.message}` };
    return { outcome: error.code };
  }
}

interface Use extends Places {
  readonly use: ModelCase["use"];
}

async function useModel({ folder, use, cacheFolder }: Use, file = ""): Promise<void> {
  const path = `${folder}${file}`;
  const model = await openModel(path);
  try {
    const description = describeModel(model, "int8");
    if (model.router) describeRouter(model.router);
    model.samplingDefaults();
    useText(await model.loadText());
    if (use === "verified") await verifyModel(model);
    if (use === "packed") {
      const sizes = { threads: 1, maxRows: 64, maxPositions: Math.min(model.config.contextTokens, 4096) };
      const key = `${Math.random()}`;
      const { kernel } = await openCachedKernel(description, sizes, { key, cacheFolder });
      await kernel.close();
    }
  } finally {
    await model.close();
  }
  const prompts = await openPromptModel(path);
  await prompts.close();
  if (use === "served") await serve(path, cacheFolder);
}

function ignored(): undefined {
  return undefined;
}

function failed(_: unknown, error: unknown): never {
  throw error;
}

const OUTPUT = {
  accepted: ignored,
  reading: ignored,
  chunk: ignored,
  logits: ignored,
  ask: ignored,
  event: ignored,
  failed,
};

async function serve(path: string, cacheFolder: string): Promise<void> {
  const options = resolveEngineOptions({ threads: 1, cacheFolder, maxNumSeqs: 2, contextTokens: 2 });
  const engine = await openEngine(path, options, OUTPUT, ignored);
  await engine.close();
}

function useText({ tokenizer, chatTemplate }: ModelText): void {
  const text = chatTemplate?.render([...MESSAGES], { tools: [{ name: "f" }] }) ?? TEXT;
  for (const one of [TEXT, text.slice(0, 2000)]) tokenizer.decode(tokenizer.encode(one));
}

async function useAdapter({ folder, dense }: Use): Promise<void> {
  const expert = await openLora(folder, "one", dense);
  await expert.close();
}

async function useSet(use: Use): Promise<void> {
  await useModel(use);
  const model = await openModel(use.folder);
  try {
    for (const { name, path } of (model.loraSet?.experts ?? []).slice(0, 4)) await useAdapterOf(model, name, path);
  } finally {
    await model.close();
  }
}

async function useAdapterOf(model: Model, name: string, path: string): Promise<void> {
  const expert = await openLora(path, name, model);
  await expert.close();
}

const CACHED = "cached data";

/** Reads what a damaged cache holds; data that is not whole is made again. */
async function useCache({ cacheFolder, folder }: Use): Promise<void> {
  await listModels({ cacheFolder });
  const path = await cachedData(cacheFolder, {
    kind: "fuzz",
    key: "k",
    note: "n",
    modelPath: folder,
    chunks: cachedChunks,
  });
  const { readFile } = await import("node:fs/promises");
  const found = await readFile(path, "utf8");
  if (found !== CACHED) throw new Error(`Expected the cached data, got ${JSON.stringify(found.slice(0, 100))}`);
}

async function* cachedChunks(): AsyncGenerator<Uint8Array> {
  yield Buffer.from(CACHED);
}

const USES: Readonly<Record<Kind, (use: Use) => Promise<void>>> = {
  dense: useModel,
  sharded: useModel,
  mixture: useModel,
  convolution: useModel,
  layers: useModel,
  delta: useModel,
  latent: useModel,
  space: useModel,
  "hybrid-gguf": (use) => useModel(use, "/model.gguf"),
  "read-me": useModel,
  pooling: useModel,
  gguf: (use) => useModel(use, "/model.gguf"),
  "gguf-text": (use) => useModel(use),
  onnx: useModel,
  tokenizer: async ({ folder }) => useText(await loadFolderText(folder)),
  template: async ({ folder }) => useText(await loadFolderText(folder)),
  adapter: useAdapter,
  set: useSet,
  cache: useCache,
};
