// Mixtures with a router in every layer whose experts are streamed give the same bits as with all experts in memory,
// whatever the budget, the batch and the forecast, and keep the promises about memory and reads.

import { open, readdir } from "node:fs/promises";
import { join } from "node:path";
import { DEFAULT_READ_AHEAD, EVICTION_POLICIES } from "@readme-moe/core";
import { KernelRunner, ReadMeEngine, type KernelRunnerOptions } from "@readme-moe/engine";
import { type KvSlot, wholeBlocks } from "@readme-moe/kernel";
import { openModel, type Model } from "@readme-moe/model";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { StepRunner } from "../../packages/engine/src/step-runner.ts";
import { complete } from "../support/complete.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { TINY_MIXTURE, writeRandomMixture, type MixtureShape } from "../support/random-mixture.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyAdapter } from "../support/tiny-adapter.ts";

/** Layer 1 is dense, and a token needs 3 of 8 experts. */
const SHAPE: MixtureShape = {
  ...TINY_MIXTURE,
  modelType: "qwen3_moe",
  numLayers: 4,
  numExperts: 8,
  expertsPerToken: 3,
  denseLayers: [1],
  normalizesWeights: true,
};
const VOCAB = SHAPE.vocabSize;

let folder: string;
let model: Model;
let unitBytes: number;
beforeAll(async () => {
  folder = join(await persistentFolder(), "mixture");
  await writeRandomMixture(folder, SHAPE);
  model = await openModel(folder);
  const runner = await streamed(8);
  unitBytes = Math.max(...(runner.memory?.layout.layerBytes ?? []));
  await runner.dispose();
});
afterAll(() => model.close());

/** @param capacity - number of units in memory */
function streamed(capacity: number, options: Partial<KernelRunnerOptions> = {}): Promise<KernelRunner> {
  const expertCacheBytes = capacity * (unitBytes ?? 2 ** 20);
  return KernelRunner.open(model, { precision: "int8", threads: 1, expertCacheBytes, ...options });
}

/**
 * Computes logits of prompts in chunks, of single tokens, of both, and after tokens were taken back.
 * @param lora - index of the lora of all rows, 0 for none
 */
async function someSteps(
  runner: StepRunner,
  between = async (): Promise<void> => undefined,
  lora = 0,
): Promise<readonly number[]> {
  const random = seededRandom(5);
  const kv = runner.openKv({ capacityTokens: wholeBlocks(4 * 64) });
  const sequences = Array.from({ length: 3 }, () => ({ slot: kv.admit(64) as KvSlot }));
  const logits: number[] = [];
  const lengths = [[9, 5, 0], [1, 1, 12], [1, 4, 1], [0, 1, 1], ...Array.from({ length: 8 }, () => [1, 1, 1])];
  for (const step of lengths) {
    const parts = sequences.flatMap(({ slot }, index) => {
      const length = step[index] as number;
      if (length === 0) return [];
      const tokenIds = Array.from({ length }, () => randomInteger(random, VOCAB));
      const experts = Array.from({ length }, () => lora);
      // The last row twice, and in some steps the first one.
      const logitsOf = random() < 0.5 ? [length - 1, 0] : [length - 1, length - 1];
      return [{ slot, tokenIds, experts, logitsOf, wantsFullLogits: true }];
    });
    await between();
    for (const result of await runner.forward(kv, parts, 3)) {
      logits.push(...result.fullLogits, ...result.candidateIds, ...result.logSumExp);
    }
  }
  kv.dispose();
  return logits;
}

async function residentBits(options: Partial<KernelRunnerOptions> = {}): Promise<readonly number[]> {
  const runner = await KernelRunner.open(model, { precision: "int8", threads: 1, ...options });
  const bits = await someSteps(runner);
  await runner.dispose();
  return bits;
}

describe("numbers", () => {
  test.each([3, 4, 7, 8, 13, 24, 100])("are those of experts in memory with room for %i units", async (capacity) => {
    const expected = await residentBits();
    for (const readAhead of [DEFAULT_READ_AHEAD, { layersAhead: 2, leastChance: 0 }, false] as const) {
      const runner = await streamed(capacity, { readAhead });
      expect(await someSteps(runner)).toEqual(expected);
      const { memory } = runner;
      expect(memory?.takenBytes).toBeLessThanOrEqual(capacity * unitBytes);
      memory?.cache.checkIntegrity();
      await runner.dispose();
    }
  });

  test.each(["fp32", "int4"] as const)("are the same bits in %s, with two threads", async (precision) => {
    const runner = await streamed(40, { precision, threads: 2 });
    expect(await someSteps(runner)).toEqual(await residentBits({ precision, threads: 2 }));
    await runner.dispose();
  });

  test("are the same bits in WebAssembly", async () => {
    const runner = await streamed(5, { kernel: "wasm" });
    expect(runner.info.kind).toBe("wasm");
    expect(await someSteps(runner)).toEqual(await residentBits());
    await runner.dispose();
  });

  test.each(EVICTION_POLICIES)("do not depend on the policy, %s", async (policy) => {
    const runner = await streamed(6, { policy });
    expect(await someSteps(runner)).toEqual(await residentBits());
    expect(runner.memory?.cache.counters.evictions).toBeGreaterThan(0);
    await runner.dispose();
  });

  test("have the lora that rows name, also while others are added and removed between two layers", async () => {
    const adapters = await temporaryFolder();
    const modules = ["self_attn.q_proj", "self_attn.v_proj", "lm_head"];
    for (const [seed, name] of ["own", "other"].entries()) {
      await writeTinyAdapter(join(adapters, name), model.config, { modules, seed, size: 0.3 });
    }
    const resident = await KernelRunner.open(model, { precision: "int8", threads: 1 });
    await resident.loras?.add("own", join(adapters, "own"));
    const expected = await someSteps(resident, undefined, 1);
    expect(expected).not.toEqual(await residentBits());
    await resident.dispose();
    const runner = await streamed(5);
    await runner.loras?.add("own", join(adapters, "own"));
    let change = Promise.resolve();
    let [numAdded, numSteps] = [0, 0];
    const addAndRemove = async (): Promise<void> => {
      const added = await runner.loras?.add("other", join(adapters, "other"));
      numAdded++;
      // A turn later the step runs another layer.
      await new Promise((resolve) => void setImmediate(resolve));
      if (added) runner.loras?.remove(added.index);
    };
    const bits = await someSteps(
      runner,
      async () => {
        numSteps++;
        await change;
        change = new Promise((resolve, reject) => void setImmediate(() => addAndRemove().then(resolve, reject)));
      },
      1,
    );
    await change;
    expect(bits).toEqual(expected);
    expect(numAdded).toBe(numSteps);
    await runner.dispose();
  });

  test("survive budgets that change between steps and while they run", async () => {
    const expected = await residentBits();
    for (let seed = 0; seed < 4; seed++) {
      const random = seededRandom(seed);
      const runner = await streamed(24);
      const changes: Promise<void>[] = [];
      const change = (): void => {
        const bytes = (3 + randomInteger(random, 22)) * unitBytes;
        changes.push(runner.residency.streamed?.setBudget(bytes) ?? Promise.resolve());
      };
      const bits = someSteps(runner, async () => {
        if (random() < 0.6) change();
        if (random() < 0.3) await Promise.all(changes);
        // This one meets a running step.
        if (random() < 0.6) setImmediate(change);
      });
      expect(await bits).toEqual(expected);
      await Promise.all(changes);
      runner.memory?.cache.checkIntegrity();
      const { budgetBytes, usedBytes } = runner.memory?.stats ?? { budgetBytes: 0, usedBytes: 1 };
      expect(usedBytes).toBeLessThanOrEqual(budgetBytes);
      expect(runner.memory?.takenBytes).toBeLessThanOrEqual(budgetBytes);
      await runner.dispose();
    }
  });
});

describe("memory", () => {
  test("reads each unit once if all fit, and with less room fewer times if more fits", async () => {
    const loads: number[] = [];
    for (const capacity of [3, 10, 18, 24]) {
      const runner = await streamed(capacity, { readAhead: { layersAhead: 0, leastChance: 1 } });
      await someSteps(runner);
      const { counters } = runner.memory?.cache ?? { counters: undefined };
      loads.push(counters?.loads ?? 0);
      expect(counters?.forecast).toMatchObject({ loads: 0, hits: 0, wastedLoads: 0 });
      expect(counters?.uses).toBe((counters?.hits ?? 0) + (counters?.forecast?.misses ?? 0));
      await runner.dispose();
    }
    expect(loads.at(-1)).toBeLessThanOrEqual(24);
    expect(loads).toEqual(loads.toSorted((a, b) => b - a));
  });

  test("reports each read and eviction", async () => {
    const told = { loaded: 0, evicted: 0 };
    const runner = await streamed(9, { onLoaded: () => told.loaded++, onEvicted: () => told.evicted++ });
    await someSteps(runner);
    const { loads, evictions } = runner.memory?.stats ?? { loads: -1, evictions: -1 };
    expect(told.evicted).toBe(evictions);
    // A read that was evicted before it ended is not reported.
    expect(told.loaded).toBeLessThanOrEqual(loads);
    expect(told.loaded).toBeGreaterThan(0);
    await runner.dispose();
  });

  test("of less than a token's experts of one layer is refused with the figure, and the old limit stays", async () => {
    const least = 3 * unitBytes;
    const message = `Expected \`expertCacheBytes\` to be at least ${least} bytes, which a token needs for 3 experts of one layer`;
    await expect(streamed(3, { expertCacheBytes: least - 1 })).rejects.toThrow(message);
    const runner = await streamed(4);
    await expect(runner.residency.streamed?.setBudget(least - 1)).rejects.toThrow(message);
    expect(runner.memory?.stats.budgetBytes).toBe(4 * unitBytes);
    await runner.dispose();
  });

  test("that changes forgets a step that was only rehearsed", async () => {
    const runner = await streamed(9);
    const fresh = await streamed(9);
    await runner.residency.streamed?.rehearse(() => someSteps(runner));
    expect(runner.memory?.stats).toMatchObject({ loads: 0, uses: 0, usedBytes: 0 });
    expect(await someSteps(runner)).toEqual(await someSteps(fresh));
    await runner.dispose();
    await fresh.dispose();
  });
});

test("a file that was cut fails the step that needs the missing unit, naming it, and later steps that do not work", async () => {
  const cacheFolder = await temporaryFolder();
  const runner = await streamed(3, { cacheFolder, readAhead: false });
  const [entry = ""] = await readdir(join(cacheFolder, "kernels"));
  const file = await open(join(cacheFolder, "kernels", entry, "weights.bin"), "r+");
  // Half of the last layer's experts.
  await file.truncate((await file.stat()).size - 4 * unitBytes);
  await file.close();
  const kv = runner.openKv({ capacityTokens: wholeBlocks(64) });
  const slot = kv.admit(32) as KvSlot;
  const outcomes: string[] = [];
  for (let token = 0; token < 24; token++) {
    const step = runner.forward(kv, [{ slot, tokenIds: [token], experts: [0], logitsOf: [0] }]);
    outcomes.push(
      await step.then(
        () => "ran",
        (error: Error) => error.message,
      ),
    );
  }
  expect(outcomes.filter((outcome) => outcome === "ran").length).toBeGreaterThan(3);
  expect(outcomes.some((outcome) => /layer 3 of expert [4-7] cannot be read/.test(outcome))).toBe(true);
  runner.memory?.cache.checkIntegrity();
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
    await writeRandomMixture(path, { ...SHAPE, vocabSize: 4096 }, { hasTokenizer: true });
  });

  async function generated(engine: ReadMeEngine): Promise<readonly (readonly number[])[]> {
    const params = { maxTokens: 12, temperature: 0, ignoreEos: true };
    return Promise.all(PROMPTS.map(async (prompt) => (await complete(engine, { prompt, params })).ids));
  }

  test("answers the same with a budget as without, while requests are aborted, and counts its forecasts", async () => {
    const whole = await ReadMeEngine.open(path, { precision: "int8", threads: 1, isolation: "thread" });
    const expected = await generated(whole);
    await whole.dispose();
    const options = { threads: 1, isolation: "thread", expertCacheBytes: 12 * unitBytes } as const;
    const engine = await ReadMeEngine.open(path, options);
    const aborts = Array.from({ length: 6 }, async (_, index) => {
      const abort = new AbortController();
      const params = { maxTokens: 400, ignoreEos: true };
      const stream = engine.generate({ prompt: [index + 1, 7], params, signal: abort.signal });
      let left = index + 1;
      for await (const { tokens } of stream) if ((left -= tokens.length) <= 0) abort.abort();
    });
    const [answers, ...outcomes] = await Promise.allSettled([generated(engine), ...aborts]);
    expect(answers).toEqual({ status: "fulfilled", value: expected });
    for (const outcome of outcomes) expect(outcome.status).toBe("rejected");
    const { expertCache, numRunning, numWaiting } = await engine.stats();
    expect([numRunning, numWaiting]).toEqual([0, 0]);
    expect(expertCache?.forecast?.misses).toBeGreaterThan(0);
    expect(expertCache?.usedBytes).toBeLessThanOrEqual(12 * unitBytes);
    await engine.setExpertCacheBytes(4 * unitBytes);
    expect((await engine.stats()).expertCache?.usedBytes).toBeLessThanOrEqual(4 * unitBytes);
    expect(await generated(engine)).toEqual(expected);
    await engine.dispose();
  });
});
