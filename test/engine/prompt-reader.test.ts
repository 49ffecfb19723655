// Readers of prompts: the answers of an engine, from a copy of its model without weights.

import { cp, open, readdir, rm, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import type { EngineInfo, PromptReader } from "@readme-moe/core";
import { openPromptReader, ReadMeEngine, type OpenOptions } from "@readme-moe/engine";
import { GgufFile, openModel, writeExpertSet } from "@readme-moe/model";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { writeQ8Gguf } from "../support/gguf/convert-model.ts";
import { POCKET } from "../support/pocket.ts";
import { writeReadingModel } from "../support/reading-model.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";
import { tinySet } from "../support/tiny-set.ts";

const PROMPTS = ["The ship was late, and the harbour", "é🙂 <|endoftext|> x", "a"] as const;
const MESSAGES = [{ role: "user", content: "What is <|endoftext|>?" }] as const;

let folder: string;
beforeAll(async () => {
  folder = await persistentFolder();
  await writeReadingModel(join(folder, "experts"));
  await cp(POCKET, join(folder, "set"), { recursive: true });
  const model = await openModel(POCKET);
  const set = await tinySet(model.config, { legal: {}, poetry: { seed: 2 } }, 3);
  await writeExpertSet(join(folder, "only-set"), set);
  await cp(join(folder, "only-set"), join(folder, "set"), { recursive: true });
  await writeQ8Gguf(model, join(folder, "model.gguf"));
  await model.close();
});

const isWeights = (name: string): boolean => name.endsWith(".safetensors") && !name.endsWith("router.safetensors");

/** Copies a model's folder without the files of its weights. */
async function copyWithoutWeights(from: string): Promise<string> {
  const to = join(await temporaryFolder(), "front");
  await cp(from, to, { recursive: true });
  for (const name of await readdir(to, { recursive: true })) if (isWeights(name)) await rm(join(to, name));
  return to;
}

/** Copies a GGUF file with nothing behind its header. */
async function copyHeader(from: string): Promise<string> {
  const to = join(await temporaryFolder(), "front.gguf");
  const file = await GgufFile.open(from);
  const end = Math.min(...Array.from(file.tensors.values(), ({ offset }) => offset));
  await file.close();
  const [source, target] = [await open(from, "r"), await open(to, "w")];
  const header = Buffer.alloc(end);
  await source.read(header, 0, end, 0);
  await target.write(header);
  await target.truncate((await stat(from)).size);
  await Promise.all([source.close(), target.close()]);
  return to;
}

interface Kind {
  readonly name: string;
  readonly path: () => string;
  readonly withoutWeights: (path: string) => Promise<string>;
  readonly options?: OpenOptions;
  readonly experts: readonly string[];
}

const KINDS: readonly Kind[] = [
  { name: "a dense model", path: () => POCKET, withoutWeights: copyWithoutWeights, experts: ["dense"] },
  {
    name: "a Read-ME model",
    path: () => join(folder, "experts"),
    withoutWeights: copyWithoutWeights,
    experts: ["domain-0", "domain-1", "domain-2"],
  },
  {
    name: "a dense model with a set of experts",
    path: () => join(folder, "set"),
    withoutWeights: copyWithoutWeights,
    options: { precision: "int8" },
    experts: ["none", "legal", "poetry"],
  },
  { name: "a GGUF file", path: () => join(folder, "model.gguf"), withoutWeights: copyHeader, experts: ["dense"] },
];

/** Everything that prompts give, of an engine or of a reader. */
async function answersOf(reader: Omit<PromptReader, "info"> & { readonly info: object }, experts: readonly string[]) {
  const tokens = await Promise.all(PROMPTS.map((prompt) => reader.tokenize(prompt)));
  return {
    tokens,
    bare: await reader.tokenize(PROMPTS[0], { addSpecialTokens: false }),
    texts: await Promise.all(tokens.map((ids) => reader.detokenize(ids))),
    routes: await Promise.all([...PROMPTS, Int32Array.of(5, 6, 7)].map((prompt) => reader.route(prompt))),
    fixed: await Promise.all(experts.map((expert) => reader.route(PROMPTS[0], expert))),
    vocabulary: await reader.vocabulary(),
    chat: await reader.applyTemplate(MESSAGES).catch((error: Error) => error.message.replace(/^.*?: /, "")),
  };
}

/** Facts about a model that both know. */
function sharedInfo(info: Partial<EngineInfo>) {
  const weights = ["weightBytes", "memory", "kernel", "modelVersion"];
  const own: readonly string[] = ["name", "path", "precision", "maxNumSeqs", "kvCapacityTokens", ...weights];
  return Object.fromEntries(Object.entries(info).filter(([name]) => !own.includes(name)));
}

describe.each(KINDS)("$name", ({ path, withoutWeights, options = {}, experts }) => {
  test("is read without weights as an engine reads it", async () => {
    await using engine = await ReadMeEngine.open(path(), {
      precision: "fp32",
      isolation: "thread",
      threads: 1,
      ...options,
    });
    const copy = await withoutWeights(path());
    await using reader = await openPromptReader(copy, { isolation: "thread" });
    expect(sharedInfo(reader.info)).toEqual(sharedInfo(engine.info));
    const names = [path(), copy].map((one) => basename(one, ".gguf"));
    expect([engine.info.name, reader.info.name]).toEqual(names);
    expect(reader.info.experts).toEqual(experts);
    expect(reader.info.promptVersion).toMatch(/^[0-9a-f]{64}$/);
    expect(await answersOf(reader, experts)).toEqual(await answersOf(engine, experts));
  });
});

const versionsOf = async (path: string, options: OpenOptions = {}) => {
  await using engine = await ReadMeEngine.open(path, {
    precision: "fp32",
    isolation: "thread",
    threads: 1,
    ...options,
  });
  const { promptVersion, modelVersion } = engine.info;
  return { promptVersion, modelVersion };
};

describe("versions", () => {
  test("are the same in another folder and with options that change no number", async () => {
    const original = await versionsOf(POCKET);
    const copy = join(await temporaryFolder(), "copy");
    await cp(POCKET, copy, { recursive: true });
    const other: OpenOptions = { threads: 2, maxNumSeqs: 3, chunkTokens: 64, speculation: false, scheduler: "fcfs" };
    expect(await versionsOf(copy, other)).toEqual(original);
  });

  test("differ with weights, precision, context, experts and texts", async () => {
    const [precise, int8] = [await versionsOf(POCKET), await versionsOf(POCKET, { precision: "int8" })];
    const versions = [
      precise,
      int8,
      await versionsOf(POCKET, { kvPrecision: "fp16" }),
      await versionsOf(POCKET, { contextTokens: 100 }),
      await versionsOf(join(folder, "model.gguf")),
      await versionsOf(join(folder, "set"), { precision: "int8" }),
      await versionsOf(join(folder, "set"), { precision: "int8", expert: "legal" }),
      await versionsOf(POCKET, { controlTokensInMessages: "control" }),
    ];
    expect(new Set(versions.map(({ modelVersion }) => modelVersion)).size).toBe(versions.length);
    expect(int8.promptVersion).toBe(precise.promptVersion);
    expect(new Set(versions.slice(3).map(({ promptVersion }) => promptVersion)).size).toBe(5);
  });
});

describe.each(["thread", "process"] as const)("a reader in a %s", (isolation) => {
  let reader: PromptReader;
  beforeAll(async () => {
    reader = await openPromptReader(join(folder, "experts"), { isolation });
  });
  afterAll(() => reader.dispose());

  test("refuses as an engine does", async () => {
    await expect(reader.tokenize(5 as never)).rejects.toThrow("Expected a text or { messages } to tokenize");
    await expect(reader.detokenize([4096])).rejects.toThrow("`tokenIds[0]`");
    await expect(reader.route("a", "poetry")).rejects.toThrow(RangeError);
    await expect(reader.route([])).rejects.toThrow("at least one token");
    await expectReadMeError(reader.tokenize("a b c d e f g h", { maxTokens: 2 }), "ERR_CONTEXT_LENGTH");
    await expectReadMeError(reader.route("word ".repeat(400)), "ERR_CONTEXT_LENGTH");
  });

  test("reads a short text before an earlier long one, which can be aborted", async () => {
    const controller = new AbortController();
    const long = reader.tokenize("x y".repeat(1_000_000), { signal: controller.signal });
    const ended: string[] = [];
    const outcome = long.then(
      () => ended.push("long"),
      () => ended.push("aborted"),
    );
    await reader.tokenize("hello there");
    expect(ended).toEqual([]);
    controller.abort();
    await outcome;
    expect(ended).toEqual(["aborted"]);
  });
});

test("what cannot be read is named, and disposed readers refuse", async () => {
  const path = await copyWithoutWeights(join(folder, "experts"));
  await rm(join(path, "tokenizer.json"));
  await expectReadMeError(openPromptReader(path, { isolation: "thread" }), "ERR_FILE_NOT_FOUND", "tokenizer.json");
  const complete = await copyWithoutWeights(join(folder, "experts"));
  await rm(join(complete, "router.safetensors"));
  await expectReadMeError(
    openPromptReader(complete, { isolation: "thread" }),
    "ERR_FILE_NOT_FOUND",
    "router.safetensors",
  );
  await expect(openPromptReader(POCKET, { precision: "int8" } as object)).rejects.toThrow("`precision`");
  await expect(openPromptReader("")).rejects.toThrow(TypeError);
  const reader = await openPromptReader(POCKET, { isolation: "thread" });
  await reader.dispose();
  await reader.dispose();
  await expectReadMeError(reader.tokenize("a"), "ERR_DISPOSED");
});
