// What happens to the file of packed weights while an engine has it mapped, and to an engine that is killed while it
// reads experts.

import { appendFile, copyFile, open, readFile, rename, rm, truncate, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { KernelRunner, ReadMeEngine, type OpenOptions } from "@readme-moe/engine";
import { changedPackedFile } from "@readme-moe/kernel";
import { openModel } from "@readme-moe/model";
import { beforeAll, describe, expect, test } from "vitest";
import { onlyEntry } from "../support/cached-entry.ts";
import { complete } from "../support/complete.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";
import { WITH_TOKENIZER, writeTinyReadMe } from "../support/tiny-read-me.ts";

/** Callers name their experts, so that the cache has one entry, and no router. */
const OPTIONS = { precision: "int8", threads: 1, expert: 0 } as const;
const PARAMS = { maxTokens: 40, temperature: 0, ignoreEos: true };
const PROMPT = [5, 6, 7, 8, 900, 901];
const EXPERTS = [0, 1, 2];
/** One layer of all experts. */
const LEAST_BYTES = 3 * 8960;

const folder = persistentFolder();
let path: string;
let expected: readonly (readonly number[])[];
beforeAll(async () => {
  path = join(await folder, "model");
  await writeTinyReadMe(path, { ...WITH_TOKENIZER, numExperts: EXPERTS.length, hasRouter: false });
  const engine = await ReadMeEngine.open(path, { ...OPTIONS, isolation: "thread" });
  expected = await answers(engine);
  await engine.dispose();
});

function answers(engine: ReadMeEngine): Promise<readonly (readonly number[])[]> {
  return Promise.all(
    EXPERTS.map(async (expert) => (await complete(engine, { prompt: PROMPT, params: PARAMS, expert })).ids),
  );
}

interface Opened {
  readonly engine: ReadMeEngine;
  readonly cacheFolder: string;
  readonly file: string;
}

async function opened(options: OpenOptions): Promise<Opened> {
  const cacheFolder = await temporaryFolder();
  const engine = await ReadMeEngine.open(path, { ...OPTIONS, cacheFolder, ...options });
  return { engine, cacheFolder, file: join(await onlyEntry(cacheFolder), "weights.bin") };
}

describe("a file of weights that are mapped", () => {
  test.each(["thread", "process"] as const)(
    "is replaced, in a %s: the engine serves on, and others make it anew",
    async (isolation) => {
      const { engine, cacheFolder, file } = await opened({ isolation });
      const original = await readFile(file);
      await writeFile(`${file}.new`, "something else");
      await rename(`${file}.new`, file);
      expect(await answers(engine)).toEqual(expected);
      const other = await ReadMeEngine.open(path, { ...OPTIONS, cacheFolder, isolation });
      expect(await answers(other)).toEqual(expected);
      expect(await answers(engine)).toEqual(expected);
      expect((await readFile(join(await onlyEntry(cacheFolder), "weights.bin"))).equals(original)).toBe(true);
      await Promise.all([engine.dispose(), other.dispose()]);
    },
  );

  test.each([
    ["to nothing", () => 0],
    ["to its first page", () => 4096],
    ["by its last byte", (size: number) => size - 1],
  ])("is cut %s: the engine fails, its caller is told, and a restart makes the file anew", async (_, lengthOf) => {
    const { engine, cacheFolder, file } = await opened({ isolation: "process" });
    const original = await readFile(file);
    const failed = new Promise((resolve) => engine.events.once("engine:failed", resolve));
    await truncate(file, lengthOf(original.length));
    // Some answers may come from what is left; then the change of the file is noticed.
    const settled = await Promise.allSettled(
      EXPERTS.map((expert) => complete(engine, { prompt: PROMPT, params: PARAMS, expert })),
    );
    for (const [expert, outcome] of settled.entries()) {
      if (outcome.status === "rejected") expect(outcome.reason).toMatchObject({ code: "ERR_ENGINE_FAILED" });
      else expect(outcome.value.ids).toEqual(expected[expert]);
    }
    await failed;
    await expectReadMeError(answers(engine), "ERR_ENGINE_FAILED");
    await engine.restart();
    expect(await answers(engine)).toEqual(expected);
    expect((await readFile(join(await onlyEntry(cacheFolder), "weights.bin"))).equals(original)).toBe(true);
    await engine.dispose();
  });

  test.each([
    ["cut", (file: string) => truncate(file, 4096)],
    ["overwritten", (file: string) => overwrite(file, 0x55)],
  ])("is %s while nobody asks: the engine notices it, and a restart makes the file anew", async (_, change) => {
    const { engine, cacheFolder, file } = await opened({ isolation: "process" });
    const original = await readFile(file);
    const failed = new Promise<string>((resolve) =>
      engine.events.once("engine:failed", ({ message }) => resolve(message)),
    );
    await change(file);
    expect(await failed).toBe(`The engine cannot go on: ${file}: was cut or overwritten while it was in use`);
    await engine.restart();
    expect(await answers(engine)).toEqual(expected);
    expect((await readFile(join(await onlyEntry(cacheFolder), "weights.bin"))).equals(original)).toBe(true);
    await engine.dispose();
  });

  test("may be touched, and its folder may be removed: the engine serves on", async () => {
    const { engine, cacheFolder, file } = await opened({ isolation: "process" });
    await utimes(file, new Date(), new Date());
    expect(await answers(engine)).toEqual(expected);
    await rm(cacheFolder, { recursive: true });
    expect(await answers(engine)).toEqual(expected);
    engine.kill();
    await expectReadMeError(answers(engine), "ERR_ENGINE_FAILED");
    await engine.restart();
    expect(await answers(engine)).toEqual(expected);
    await engine.dispose();
  });
});

/** Writes other bytes into a file, which keeps its length. */
async function overwrite(file: string, byte: number): Promise<void> {
  const handle = await open(file, "r+");
  const { size } = await handle.stat();
  await handle.write(Buffer.alloc(size, byte), 0, size, 0);
  await handle.close();
}

test("packed files that kernels use are known to have changed once their size or content has", async () => {
  const cacheFolder = await temporaryFolder();
  const model = await openModel(path);
  const runner = await KernelRunner.open(model, { ...OPTIONS, cacheFolder });
  const file = join(await onlyEntry(cacheFolder), "weights.bin");
  const original = await readFile(file);
  expect(await changedPackedFile()).toBeUndefined();
  await utimes(file, 1, 1);
  expect(await changedPackedFile()).toBeUndefined();
  await overwrite(file, 0x55);
  expect(await changedPackedFile()).toBe(file);
  await writeFile(file, original);
  expect(await changedPackedFile()).toBeUndefined();
  await appendFile(file, "x");
  expect(await changedPackedFile()).toBe(file);
  await runner.dispose();
  expect(await changedPackedFile()).toBeUndefined();
  await model.close();
});

test.each([1, 20, 60])(
  "an engine that is killed after %i tokens, while it reads experts, begins anew",
  async (tokens) => {
    const { engine, cacheFolder, file } = await opened({ isolation: "process", expertCacheBytes: LEAST_BYTES });
    const copy = join(await temporaryFolder(), "weights.bin");
    await copyFile(file, copy);
    const reached = new Promise<void>((resolve) => {
      let left = tokens;
      engine.events.on("token:generated", () => {
        if (--left === 0) resolve();
      });
    });
    const settled = Promise.allSettled(
      EXPERTS.map((expert) => complete(engine, { prompt: PROMPT, params: PARAMS, expert })),
    );
    await reached;
    engine.kill();
    for (const outcome of await settled) {
      if (outcome.status === "rejected") expect(outcome.reason).toMatchObject({ code: "ERR_ENGINE_FAILED" });
    }
    await engine.restart();
    expect(await answers(engine)).toEqual(expected);
    expect((await readFile(join(await onlyEntry(cacheFolder), "weights.bin"))).equals(await readFile(copy))).toBe(true);
    await engine.dispose();
  },
);
