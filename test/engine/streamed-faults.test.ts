// Streamed experts while their file is damaged, removed or replaced, and while their budget changes.

import { copyFile, open, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { EVICTION_POLICIES, type ProcessLogits } from "@readme-moe/core";
import { KernelRunner, ReadMeEngine, type OpenOptions } from "@readme-moe/engine";
import { openModel } from "@readme-moe/model";
import { openRouter } from "@readme-moe/router";
import { beforeAll, describe, expect, test } from "vitest";
import type { ExpertStore } from "../../packages/engine/src/experts/expert-store.ts";
import { complete } from "../support/complete.ts";
import { CoreBench, outcomesAlone, randomJobs } from "../support/core-bench.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { packedExperts, persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";
import { WITH_TOKENIZER, writeTinyReadMe } from "../support/tiny-read-me.ts";

const [SMALL, LARGE] = [6912, 8960];
const LEAST = 3 * LARGE;
const ALL = 3 * (SMALL + LARGE);
const PARAMS = { maxTokens: 40, temperature: 0, ignoreEos: true };
const PROMPT = [5, 6, 7, 8, 900, 901];

const folder = persistentFolder();
let path: string;
/** Generates each expert's own continuation of `PROMPT`. */
let expected: readonly (readonly number[])[];
beforeAll(async () => {
  path = join(await folder, "model");
  await writeTinyReadMe(path, { ...WITH_TOKENIZER, numExperts: 3 });
  const engine = await ReadMeEngine.open(path, { precision: "int8", threads: 1, isolation: "thread" });
  expected = await Promise.all([0, 1, 2].map((expert) => said(engine, expert)));
  await engine.dispose();
});

async function said(engine: ReadMeEngine, expert: number): Promise<readonly number[]> {
  return (await complete(engine, { prompt: PROMPT, params: PARAMS, expert })).ids;
}

/** Opens an engine with a small budget, and finds the file of its experts. */
async function opened(options: OpenOptions = {}): Promise<{ readonly engine: ReadMeEngine; readonly file: string }> {
  const cacheFolder = await temporaryFolder();
  const defaults = { threads: 1, isolation: "thread", expertCacheBytes: LEAST } as const;
  const engine = await ReadMeEngine.open(path, { ...defaults, cacheFolder, ...options });
  return { engine, file: await packedExperts(cacheFolder) };
}

function once<Result>(work: () => Promise<Result>): () => Promise<Result> {
  let result: Promise<Result> | undefined;
  return () => (result ??= work());
}

/** Resolves after this many tokens. */
function tokensOf(engine: ReadMeEngine, count: number): Promise<void> {
  return new Promise((resolve) => {
    let left = count;
    engine.events.on("token:generated", () => {
      if (--left === 0) resolve();
    });
  });
}

async function truncate(file: string, bytes: number): Promise<void> {
  const handle = await open(file, "r+");
  await handle.truncate((await handle.stat()).size - bytes);
  await handle.close();
}

describe("a file of experts", () => {
  test.each(["thread", "process"] as const)(
    "that is cut while it serves, in a %s, fails only the requests that need the missing part, now and later",
    async (isolation) => {
      const { engine, file } = await opened({ isolation });
      const copy = join(await temporaryFolder(), "weights.bin");
      await copyFile(file, copy);
      const others = () => Promise.allSettled([said(engine, 0), said(engine, 2)]);
      // The second expert waits until the others have taken its memory. Then its file lacks the last layer of two
      // experts, and all three run.
      const cutFile = once(async () => {
        await others();
        await truncate(file, 2 * LARGE);
        return { afterwards: others() };
      });
      const processLogits: ProcessLogits = async (_, { tokenIds }) => {
        if (tokenIds.length >= PROMPT.length + 5) await cutFile();
        return undefined;
      };
      const second = complete(engine, { prompt: PROMPT, params: PARAMS, expert: 1, processLogits });
      await expectReadMeError(second, "ERR_FILE_UNREADABLE", "layer 1 of expert 1 cannot be read");
      const [first, third] = await (await cutFile()).afterwards;
      expect(first).toEqual({ status: "fulfilled", value: expected[0] });
      // Units in memory may still be used.
      if (third.status === "fulfilled") expect(third.value).toEqual(expected[2]);
      else expect(third.reason).toMatchObject({ name: "ReadMeError", code: "ERR_FILE_UNREADABLE" });

      await expectReadMeError(said(engine, 1), "ERR_FILE_UNREADABLE", "layer 1 of expert 1 cannot be read");
      expect(await said(engine, 0)).toEqual(expected[0]);
      const { expertCache, numRunning } = await engine.stats();
      expect(numRunning).toBe(0);
      expect(expertCache?.failedReads).toBeGreaterThan(0);
      // The engine works again as soon as the file is complete.
      await copyFile(copy, file);
      expect(await Promise.all([0, 1, 2].map((expert) => said(engine, expert)))).toEqual(expected);
      await engine.dispose();
    },
  );

  test("that is removed or replaced still serves, because it is open", async () => {
    const { engine, file } = await opened();
    const some = tokensOf(engine, 6);
    const answers = Promise.all([0, 1, 2].map((expert) => said(engine, expert)));
    await some;
    await rm(file);
    expect(await answers).toEqual(expected);
    await writeFile(`${file}.new`, "something else");
    await rename(`${file}.new`, file);
    expect(await Promise.all([2, 1, 0].map((expert) => said(engine, expert)))).toEqual(expected.toReversed());
    const { expertCache } = await engine.stats();
    expect(expertCache?.failedReads).toBe(0);
    expect(expertCache?.wastedLoads).toBe(0);
    await engine.dispose();
  });
});

describe("a budget that changes while requests run", () => {
  test("changes no token, in an engine", async () => {
    const { engine } = await opened({ isolation: "process" });
    const random = seededRandom(1);
    const over = new AbortController();
    const changing = (async () => {
      for (let count = 0; !over.signal.aborted; count++) {
        const bytes = count % 2 === 0 ? LEAST : LEAST + randomInteger(random, ALL);
        await engine.setExpertCacheBytes(bytes);
        const { expertCache } = await engine.stats();
        expect(expertCache?.budgetBytes).toBe(bytes);
        expect(expertCache?.usedBytes).toBeLessThanOrEqual(bytes);
      }
    })();
    const answers = await Promise.all([0, 1, 2, 1, 0].map((expert) => said(engine, expert)));
    over.abort();
    await changing;
    expect(answers).toEqual([0, 1, 2, 1, 0].map((expert) => expected[expert]));
    await engine.setExpertCacheBytes(ALL);
    const before = (await engine.stats()).expertCache;
    await Promise.all([0, 1, 2].map((expert) => said(engine, expert)));
    const after = (await engine.stats()).expertCache;
    expect(after?.usedBytes).toBe(ALL);
    expect((after?.loads ?? 0) - (before?.loads ?? 0)).toBeLessThanOrEqual(6);

    // The engine opens again with the last budget.
    engine.kill();
    await expectReadMeError(said(engine, 0), "ERR_ENGINE_FAILED");
    await engine.restart();
    expect((await engine.stats()).expertCache).toMatchObject({ budgetBytes: ALL, loads: 0 });
    expect(await said(engine, 2)).toEqual(expected[2]);
    await engine.dispose();
  });

  test("changes no bit, between and within steps, and keeps the accounting right", async () => {
    const model = await openModel(path);
    const { tokenizer } = await model.loadText();
    const router = await openRouter(model, undefined, { threads: 1 });
    const resident = await KernelRunner.open(model, { precision: "int8", threads: 1 });
    const jobs = randomJobs(6, 4);
    const alone = await outcomesAlone(jobs, { runner: resident, router }, tokenizer);
    for (let seed = 0; seed < 6; seed++) {
      const random = seededRandom(seed);
      const policy = EVICTION_POLICIES[seed % EVICTION_POLICIES.length];
      const runner = await KernelRunner.open(model, { expertCacheBytes: LEAST, policy, threads: 1 });
      const { residency } = runner;
      const memory = runner.memory as ExpertStore;
      const bench = new CoreBench({ runner, router }, tokenizer, { capacityTokens: 4096, residency });
      for (const { id, promptIds, params } of jobs) bench.add(id, promptIds, params);
      while (bench.core.hasWork) {
        const step = bench.core.step();
        const changes: Promise<void>[] = [];
        for (let left = randomInteger(random, 3); left > 0; left--) {
          for (let turns = randomInteger(random, 12); turns > 0; turns--) {
            await new Promise((resolve) => setImmediate(resolve));
          }
          changes.push(memory.setBudget(LEAST + randomInteger(random, ALL - LEAST)));
          memory.cache.checkIntegrity();
        }
        await step;
        await Promise.all(changes);
        bench.core.checkIntegrity();
        memory.cache.checkIntegrity();
        expect(memory.takenBytes).toBeLessThanOrEqual(memory.stats.budgetBytes);
      }
      expect(Object.fromEntries(bench.outcomes)).toEqual(Object.fromEntries(alone));
      await runner.dispose();
    }
    await resident.dispose();
    await router.dispose();
    await model.close();
  });

  test("is rejected if it is too small, naming the minimum", async () => {
    const { engine } = await opened();
    const least =
      /`expertCacheBytes` to be at least 26880 bytes, which a step of all experts needs at once, got `26879`/;
    await expect(engine.setExpertCacheBytes(LEAST - 1)).rejects.toThrow(RangeError);
    await expect(engine.setExpertCacheBytes(LEAST - 1)).rejects.toThrow(least);
    await expect(engine.setExpertCacheBytes(Number.NaN)).rejects.toThrow(/`bytes` to be an integer/);
    expect((await engine.stats()).expertCache?.budgetBytes).toBe(LEAST);
    expect(await said(engine, 1)).toEqual(expected[1]);
    await engine.dispose();

    const resident = await ReadMeEngine.open(path, { precision: "int8", threads: 1, isolation: "thread" });
    await expect(resident.setExpertCacheBytes(LEAST)).rejects.toThrow(TypeError);
    await expect(resident.setExpertCacheBytes(LEAST)).rejects.toThrow(
      /`expertCacheBytes`; all its experts are in memory/,
    );
    expect((await resident.stats()).expertCache).toBeUndefined();
    await resident.dispose();
  });
});
