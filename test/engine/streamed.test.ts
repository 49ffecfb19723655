// Streamed experts give the same bits as experts in memory, whatever the budget, and keep the promises about memory,
// reads and evictions.

import { open } from "node:fs/promises";
import { join } from "node:path";
import { EVICTION_POLICIES } from "@readme-moe/core";
import { KernelRunner, ReadMeEngine, type KernelRunnerOptions } from "@readme-moe/engine";
import { type KvSlot, wholeBlocks } from "@readme-moe/kernel";
import { openModel, type Model } from "@readme-moe/model";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { ExpertStore } from "../../packages/engine/src/experts/expert-store.ts";
import type { StepRunner } from "../../packages/engine/src/step-runner.ts";
import { complete } from "../support/complete.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { packedExperts, persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { WITH_TOKENIZER, writeTinyReadMe } from "../support/tiny-read-me.ts";

/** Bytes of the larger layer, with and without biases. */
const [UNIT_BYTES, TEXT_UNIT_BYTES] = [9728, 8960];

let folder: string;
let model: Model;
let resident: KernelRunner;
let bits: readonly number[];
beforeAll(async () => {
  folder = join(await persistentFolder(), "model");
  await writeTinyReadMe(folder, { numExperts: 3, hasBias: true });
  model = await openModel(folder);
  resident = await KernelRunner.open(model, { precision: "int8", threads: 1 });
  bits = await someSteps(resident);
});
afterAll(async () => {
  await resident.dispose();
  await model.close();
});

/** Computes all logits of prompts with several experts in chunks and at once, then of single tokens, then of both. */
async function someSteps(runner: StepRunner): Promise<readonly number[]> {
  const random = seededRandom(5);
  const kv = runner.openKv({ capacityTokens: wholeBlocks(4 * 64) });
  const sequences = Array.from({ length: 3 }, () => ({ slot: kv.admit(64) as KvSlot }));
  const logits: number[] = [];
  const lengths = [
    [9, 5, 0],
    [1, 1, 12],
    [1, 4, 1],
    [1, 1, 1],
    [0, 1, 1],
    [1, 1, 1],
  ];
  for (const step of lengths) {
    const parts = sequences.flatMap(({ slot }, index) => {
      const length = step[index] as number;
      if (length === 0) return [];
      const tokenIds = Array.from({ length }, () => randomInteger(random, 96));
      const experts = Array.from({ length }, () => randomInteger(random, 3));
      return [{ slot, tokenIds, experts, logitsOf: [length - 1], wantsFullLogits: true }];
    });
    for (const result of await runner.forward(kv, parts, 3)) {
      logits.push(...result.fullLogits, ...result.candidateIds, ...result.logSumExp);
    }
  }
  return logits;
}

async function streamed(options: Partial<KernelRunnerOptions> = {}): Promise<KernelRunner> {
  return KernelRunner.open(model, { expertCacheBytes: 6 * UNIT_BYTES, threads: 1, ...options });
}

describe("numbers", () => {
  test.each(["fp32", "int4"] as const)("are the same bits in %s", async (precision) => {
    const whole = await KernelRunner.open(model, { precision, threads: 2 });
    const expected = await someSteps(whole);
    await whole.dispose();
    const runner = await streamed({ precision, expertCacheBytes: 120_000, threads: 2 });
    expect(await someSteps(runner)).toEqual(expected);
    await runner.dispose();
  });

  test("are the same bits in WebAssembly", async () => {
    const runner = await streamed({ kernel: "wasm", expertCacheBytes: 4 * UNIT_BYTES });
    expect(await someSteps(runner)).toEqual(bits);
    expect(runner.info.kind).toBe("wasm");
    await runner.dispose();
  });

  test.each([3, 4, 5, 6, 100])("are the same bits with room for %i of the larger units", async (capacity) => {
    const runner = await streamed({ expertCacheBytes: capacity * UNIT_BYTES });
    expect(await someSteps(runner)).toEqual(bits);
    expect(runner.memory?.takenBytes).toBeLessThanOrEqual(capacity * UNIT_BYTES);
    await runner.dispose();
  });
});

describe("memory", () => {
  test("reads each unit once if all fit; with less room repeatedly, but uses what stays", async () => {
    const counts: { hits: number; loads: number }[] = [];
    for (const capacity of [3, 5, 6]) {
      const runner = await streamed({ expertCacheBytes: capacity * UNIT_BYTES });
      await someSteps(runner);
      counts.push((runner.memory as ExpertStore).cache.counters);
      runner.memory?.cache.checkIntegrity();
      expect(runner.memory?.cache.counters.wastedLoads).toBe(0);
      await runner.dispose();
    }
    expect(counts[2]).toMatchObject({ loads: 6 });
    expect(counts[1]?.loads).toBeLessThan(counts[0]?.loads ?? 0);
    expect(counts[1]?.hits).toBeGreaterThan(0);
  });

  test("never exceeds the budget, and reports loads and evictions", async () => {
    const here = new Map<string, number>();
    let most = 0;
    let numEvicted = 0;
    const startMs = performance.now();
    const runner = await streamed({
      expertCacheBytes: 3 * UNIT_BYTES,
      onLoaded: ({ layer, expert }, bytes, durationMs) => {
        here.set(`${layer} ${expert}`, bytes);
        most = Math.max(
          most,
          [...here.values()].reduce((sum, held) => sum + held, 0),
        );
        expect(bytes).toBeGreaterThan(0);
        expect(durationMs).toBeGreaterThanOrEqual(0);
        // A point in time instead of a duration would be larger than this.
        expect(durationMs).toBeLessThanOrEqual(performance.now() - startMs);
      },
      onEvicted: ({ layer, expert }, nextUse) => {
        expect(here.delete(`${layer} ${expert}`)).toBe(true);
        // In steps; infinite if no use is known.
        expect(nextUse >= 0 && (nextUse === Infinity || Number.isInteger(nextUse)), `${nextUse}`).toBe(true);
        numEvicted++;
      },
    });
    await someSteps(runner);
    const { evictions } = (runner.memory as ExpertStore).cache.counters;
    expect(numEvicted).toBe(evictions);
    expect(numEvicted).toBeGreaterThan(0);
    expect(most).toBeLessThanOrEqual(3 * UNIT_BYTES);
    await runner.dispose();
  });

  test("rejects a budget below one layer", async () => {
    await expect(streamed({ expertCacheBytes: 2 * UNIT_BYTES })).rejects.toThrow(/`expertCacheBytes`.*at least 29184/);
  });
});

test("a file that was cut fails the step that needs the missing unit, naming it, and no other step", async () => {
  const cacheFolder = await temporaryFolder();
  const runner = await streamed({ cacheFolder, expertCacheBytes: 3 * UNIT_BYTES });
  const file = await open(await packedExperts(cacheFolder), "r+");
  const { size } = await file.stat();
  await file.truncate(size - UNIT_BYTES); // the last expert of the last layer
  await file.close();
  const kv = runner.openKv({ capacityTokens: wholeBlocks(64) });
  const slot = kv.admit(32) as KvSlot;
  const step = (expert: number) =>
    runner.forward(kv, [{ slot, tokenIds: [5, 6], experts: [expert, expert], logitsOf: [1] }]);
  expect(await step(1)).toHaveLength(1);
  await expect(step(2)).rejects.toThrow(/layer 1 of expert 2 cannot be read/);
  expect(await step(1)).toHaveLength(1);
  await runner.dispose();
});

describe("an engine", () => {
  const PROMPTS = [
    [5, 6, 7, 8],
    [900, 901],
    [40, 41, 42, 43, 44, 45, 46],
    [3000, 17, 3000, 17],
  ];
  let path: string;
  beforeAll(async () => {
    path = join(await persistentFolder(), "texts");
    await writeTinyReadMe(path, { numExperts: 3, ...WITH_TOKENIZER });
  });

  async function generated(engine: ReadMeEngine, expert?: number): Promise<readonly (readonly number[])[]> {
    const params = { maxTokens: 12, temperature: 0, ignoreEos: true };
    const choice = expert === undefined ? {} : { expert };
    return Promise.all(PROMPTS.map(async (prompt) => (await complete(engine, { prompt, params, ...choice })).ids));
  }

  test.each([...(["fcfs", "read-me", "cost-aware"] as const).entries()])(
    "gives the same answers with a small budget as with all experts in memory (%i), %s",
    async (index, scheduler) => {
      const whole = await ReadMeEngine.open(path, { precision: "int8", threads: 1, isolation: "thread" });
      const expected = await generated(whole);
      await whole.dispose();
      // Each policy with one of the schedulers; the long tests take all of both.
      const policies = EVICTION_POLICIES.filter((_, policy) => RUNS_LONG_TESTS || policy % 3 === index);
      for (const expertCachePolicy of policies) {
        const engine = await ReadMeEngine.open(path, {
          threads: 1,
          isolation: "thread",
          expertCacheBytes: 4 * TEXT_UNIT_BYTES,
          expertCachePolicy,
          scheduler,
        });
        const events = { loaded: 0, evicted: 0 };
        engine.events.on("expert:loaded", () => events.loaded++);
        engine.events.on("expert:evicted", () => events.evicted++);
        expect(await generated(engine)).toEqual(expected);
        expect(events.loaded).toBeGreaterThan(0);
        const { expertCache } = await engine.stats();
        expect(expertCache).toMatchObject({ loads: events.loaded, evictions: events.evicted, failedReads: 0 });
        expect(expertCache?.usedBytes).toBeLessThanOrEqual(4 * TEXT_UNIT_BYTES);
        await engine.dispose();
      }
    },
  );

  test("whose file loses an expert fails the requests that need it, and continues with the others", async () => {
    const cacheFolder = await temporaryFolder();
    const options = { threads: 1, isolation: "thread", expertCacheBytes: 3 * TEXT_UNIT_BYTES, cacheFolder } as const;
    const engine = await ReadMeEngine.open(path, options);
    const expected = await generated(engine, 0);
    const file = await open(await packedExperts(cacheFolder), "r+");
    await file.truncate((await file.stat()).size - TEXT_UNIT_BYTES);
    await file.close();
    const [broken, whole] = await Promise.allSettled([generated(engine, 2), generated(engine, 0)]);
    expect(broken).toMatchObject({ status: "rejected", reason: { code: "ERR_FILE_UNREADABLE" } });
    expect(whole).toEqual({ status: "fulfilled", value: expected });
    expect(await engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0 });
    await engine.dispose();
  });
});
