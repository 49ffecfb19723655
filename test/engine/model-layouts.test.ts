// Layouts of models: what a reader of prompts and an engine make of each.

import { cp, mkdir, readdir, readFile, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { PromptInfo } from "@readme-moe/core";
import type { EngineOptions } from "@readme-moe/engine";
import { precisionOf } from "@readme-moe/kernel";
import { openModel, SafetensorsFile, writeExpertSet, writeSafetensors } from "@readme-moe/model";
import { expect, onTestFinished, test } from "vitest";
import { resolveEngineOptions, resolveReaderOptions } from "../../packages/engine/src/engine-options.ts";
import type { EngineOutput } from "../../packages/engine/src/engine-parts.ts";
import { openEngine } from "../../packages/engine/src/worker/open-engine.ts";
import { openReader } from "../../packages/engine/src/worker/open-reader.ts";
import { fixture } from "../support/fixtures.ts";
import { writeModelGguf, writeQ8Gguf } from "../support/gguf/convert-model.ts";
import { writeOnnxFixtures } from "../support/onnx-fixtures.ts";
import { POCKET } from "../support/pocket.ts";
import { EMBEDDING_MODEL } from "../support/pooling-models.ts";
import { TINY_MIXTURE, writeRandomMixture } from "../support/random-mixture.ts";
import { writeReadingModel } from "../support/reading-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyDense } from "../support/tiny-dense.ts";
import { tinySet } from "../support/tiny-set.ts";

/** Writes a dense model as a GGUF file. */
async function writeGguf(dense: string, path: string): Promise<string> {
  const model = await openModel(dense);
  await writeQ8Gguf(model, path);
  await model.close();
  return path;
}

/** Replaces the files of a model by links, as a cache of Hugging Face has them. @returns the snapshot */
async function writeSnapshot(home: string, model: string): Promise<string> {
  const [blobs, snapshot] = [join(home, "blobs"), join(home, "snapshots", "0123abc")];
  for (const one of [blobs, snapshot]) await mkdir(one, { recursive: true });
  for (const [index, name] of (await readdir(model)).entries()) {
    await rename(join(model, name), join(blobs, `${index}`));
    await symlink(join("..", "..", "blobs", `${index}`), join(snapshot, name));
  }
  return snapshot;
}

async function writeSet(home: string, model: string): Promise<void> {
  const opened = await openModel(model);
  const set = await tinySet(opened.config, { legal: {}, poetry: { seed: 2 } }, 3);
  await opened.close();
  await writeExpertSet(join(home, "set"), set);
  await cp(join(home, "set"), (await stat(model)).isDirectory() ? model : dirname(model), { recursive: true });
}

/** Copies a conversion by the paper's code, with a tokenizer. */
async function writeOfficial(home: string): Promise<string> {
  const path = join(home, "official");
  await cp(fixture("official-fused-residual"), path, { recursive: true });
  await cp(join(POCKET, "tokenizer.json"), join(path, "tokenizer.json"));
  return path;
}

/** Takes the router out of a conversion by the paper's code. */
async function dropRouter(path: string): Promise<string> {
  const file = join(path, "model.safetensors");
  const store = await SafetensorsFile.open(file);
  const kept = store.names.filter((name) => !name.startsWith("cluster_predictor."));
  const tensors = await Promise.all(
    kept.map(async (name) => {
      const bytes = await store.readBytes(name);
      return { ...store.info(name), bytes: async () => bytes };
    }),
  );
  await store.close();
  await writeSafetensors(file, tensors);
  const { embedding_dim: _, ...config } = JSON.parse(await readFile(join(path, "config.json"), "utf8")) as object & {
    readonly embedding_dim: number;
  };
  await writeFile(join(path, "config.json"), JSON.stringify(config));
  return path;
}

/** Every layout that `openModel` reads: writes a model below a folder that has a dense one, and gives the path to it. */
const LAYOUTS: Readonly<Record<string, (home: string, dense: string) => Promise<string>>> = {
  "a file of safetensors": async (_, dense) => dense,
  "texts in more files": async (_, dense) => {
    await writeFile(join(dense, "generation_config.json"), JSON.stringify({ temperature: 0.5, eos_token_id: [0, 7] }));
    await writeFile(join(dense, "chat_template.jinja"), "{{ messages[0].content }}");
    return dense;
  },
  "a link to a folder": async (home, dense) => {
    await symlink(dense, join(home, "link"));
    return join(home, "link");
  },
  "a snapshot of the hub's cache": writeSnapshot,
  "a mixture in shards": async (home) => {
    await writeRandomMixture(
      join(home, "mixture"),
      { ...TINY_MIXTURE, vocabSize: 4096 },
      { numShards: 2, hasTokenizer: true },
    );
    return join(home, "mixture");
  },
  "a GGUF file": (home, dense) => writeGguf(dense, join(home, "model.gguf")),
  "a GGUF file without an extension": (home, dense) => writeGguf(dense, join(home, "sha256-0123")),
  "a folder with a GGUF file": async (home, dense) => {
    await mkdir(join(home, "alone"));
    await writeGguf(dense, join(home, "alone", "model.GGUF"));
    return join(home, "alone");
  },
  "a folder with config.json, tokenizer.json and a GGUF file": async (_, dense) => {
    await writeGguf(dense, join(dense, "model.gguf"));
    await rm(join(dense, "model.safetensors"));
    return dense;
  },
  "safetensors beside a GGUF file": async (_, dense) => {
    await writeGguf(dense, join(dense, "model.gguf"));
    return dense;
  },
  "experts beside safetensors": async (home, dense) => {
    await writeSet(home, dense);
    return dense;
  },
  "experts beside config.json and a GGUF file": async (home, dense) => {
    await writeGguf(dense, join(dense, "model.gguf"));
    await rm(join(dense, "model.safetensors"));
    await writeSet(home, dense);
    return dense;
  },
  "a Read-ME model": async (home) => {
    await writeReadingModel(join(home, "experts"));
    return join(home, "experts");
  },
  "a Read-ME model without a router": async (home) => {
    await writeReadingModel(join(home, "experts"), { hasRouter: false });
    return join(home, "experts");
  },
  "a folder with ONNX files": async (home) => {
    await writeOnnxFixtures(home);
    return join(home, "llama-optimum");
  },
  "an ONNX file": async (home) => {
    await writeOnnxFixtures(home);
    return join(home, "qwen2-optimum", "onnx", "model_uint8.onnx");
  },
  "a conversion by the paper's code": (home) => writeOfficial(home),
  "a conversion by the paper's code without a router": async (home) => dropRouter(await writeOfficial(home)),
  "a model of embeddings": async () => EMBEDDING_MODEL,
};

test.each(Object.entries(LAYOUTS))("a reader and an engine know the same version: %s", async (layout, write) => {
  const home = await temporaryFolder();
  await writeTinyDense(join(home, "dense"), 1);
  const path = await write(home, join(home, "dense"));
  const shared = { contextTokens: 64, ...(/without a router/.test(layout) && { expert: 0 }) };
  const options = resolveEngineOptions({ precision: "fp32", threads: 1, isolation: "thread", ...shared });
  const output = new Proxy({} as EngineOutput, { get: () => () => undefined });
  const engine = await openEngine(path, options, output, () => undefined);
  const reader = await openReader(path, resolveReaderOptions(shared));
  await Promise.all([engine.close(), reader.close()]);
  const known = Object.keys(reader.info).map((name) => [name, engine.info[name as keyof PromptInfo]]);
  expect(reader.info).toStrictEqual(Object.fromEntries(known));
});

test("products have the bits of a file's blocks unless options say otherwise, and int8 without blocks", async () => {
  const home = await temporaryFolder();
  await writeTinyDense(join(home, "dense"), 1);
  const blocks = await writeGguf(join(home, "dense"), join(home, "blocks.gguf"));
  const output = new Proxy({} as EngineOutput, { get: () => () => undefined });
  const used = async (path: string, asked: EngineOptions): Promise<string> => {
    const engine = await openEngine(path, resolveEngineOptions({ threads: 1, ...asked }), output, () => undefined);
    await engine.close();
    return engine.info.precision;
  };
  expect(await used(blocks, {})).toBe("file");
  expect(await used(blocks, { precision: "int8" })).toBe("int8");
  expect(await used(join(home, "dense"), {})).toBe("int8");
  const model = await openModel(join(home, "dense"));
  onTestFinished(() => model.close());
  await writeModelGguf(model, join(home, "halves.gguf"), "F16");
  const halves = await openModel(join(home, "halves.gguf"));
  onTestFinished(() => halves.close());
  expect(precisionOf(halves)).toBe("int8");
  expect(precisionOf(halves, "file")).toBe("file");
});
