// What happens to the file of packed weights while an engine has it mapped, and to an engine that is killed while it
// reads experts.

import { copyFile, open, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeEngine, type OpenOptions } from "@readme-moe/engine";
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

  test("is cut: the engine's process ends, its caller is told, and a restart makes the file anew", async () => {
    const { engine, cacheFolder, file } = await opened({ isolation: "process" });
    const original = await readFile(file);
    const handle = await open(file, "r+");
    await handle.truncate(0);
    await handle.close();
    await expectReadMeError(answers(engine), "ERR_ENGINE_FAILED");
    await engine.restart();
    expect(await answers(engine)).toEqual(expected);
    expect((await readFile(join(await onlyEntry(cacheFolder), "weights.bin"))).equals(original)).toBe(true);
    await engine.dispose();
  });
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
