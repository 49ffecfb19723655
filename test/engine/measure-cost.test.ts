// Measures the costs of steps with the real runner, on a clock that the test controls.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { everythingResident, predictStepMs, type CostModel, type StepWork } from "@readme-moe/core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { cachedCost, measureCost } from "../../packages/engine/src/measure-cost.ts";
import type { StepRunner } from "../../packages/engine/src/step-runner.ts";
import { POCKET } from "../support/pocket.ts";
import { runningModel, type RunningModel } from "../support/running-model.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyReadMe } from "../support/tiny-read-me.ts";

const TRUE_COST: CostModel = { fixedMs: 3, msPerToken: 0.4, msPerExpert: 1.5, msPerCachedToken: 0, loadMsPerByte: 0 };

let running: RunningModel;
beforeAll(async () => {
  const folder = join(await persistentFolder(), "model");
  await writeTinyReadMe(folder, { numExperts: 4, config: { max_position_embeddings: 256 } });
  running = await runningModel(folder);
});
afterAll(() => running[Symbol.asyncDispose]());

/** A runner, and a clock that its steps advance by their cost. */
function timed(runner: StepRunner, firstStepMs = 0): { readonly runner: StepRunner; readonly now: () => number } {
  let nowMs = 0;
  let steps = 0;
  const forward: StepRunner["forward"] = async (kv, sequences, ...rest) => {
    const tokens = sequences.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
    const experts = new Set(sequences.flatMap((sequence) => Array.from(sequence.experts)));
    const results = await runner.forward(kv, sequences, ...rest);
    nowMs += predictStepMs(TRUE_COST, { tokens, distinctExperts: experts.size, cachedTokens: 0, missingBytes: 0 });
    if (steps++ === 0) nowMs += firstStepMs;
    return results;
  };
  return {
    runner: {
      model: runner.model,
      expertNames: runner.expertNames,
      openKv: runner.openKv.bind(runner),
      forward,
      keepsLogits: () => true,
      dispose: async () => undefined,
    },
    now: () => nowMs,
  };
}

const WORKS: readonly StepWork[] = [
  { tokens: 1, distinctExperts: 1, cachedTokens: 0, missingBytes: 0 },
  { tokens: 16, distinctExperts: 2, cachedTokens: 0, missingBytes: 0 },
  { tokens: 16, distinctExperts: 4, cachedTokens: 0, missingBytes: 0 },
  { tokens: 120, distinctExperts: 3, cachedTokens: 0, missingBytes: 0 },
];

test("predicts other steps within a tenth, however slow the first step was", async () => {
  for (const firstStepMs of [0, 5000]) {
    const { runner, now } = timed(running.runner, firstStepMs);
    const cost = await measureCost(runner, { residency: everythingResident, now, mostMs: 10_000 });
    for (const work of WORKS) {
      expect(predictStepMs(cost, work) / predictStepMs(TRUE_COST, work)).toBeGreaterThan(0.9);
      expect(predictStepMs(cost, work) / predictStepMs(TRUE_COST, work)).toBeLessThan(1.1);
    }
  }
});

test("begins no step after the time is over", async () => {
  const { runner, now } = timed(running.runner);
  await measureCost(runner, { residency: everythingResident, now, mostMs: 20 });
  const longest = predictStepMs(TRUE_COST, { tokens: 64, distinctExperts: 4, cachedTokens: 0, missingBytes: 0 });
  expect(now()).toBeLessThanOrEqual(20 + longest);
});

test("measures a dense model", async () => {
  const pocket = await runningModel(POCKET);
  const cost = await measureCost(pocket.runner, { residency: everythingResident, now: () => performance.now() });
  expect(predictStepMs(cost, WORKS[0] as StepWork)).toBeGreaterThan(0);
  await pocket[Symbol.asyncDispose]();
});

test("measures once for a model, its options and the machine", async () => {
  const cacheFolder = await temporaryFolder();
  let numMeasured = 0;
  const measure = async (): Promise<CostModel> => ({ ...TRUE_COST, fixedMs: ++numMeasured });
  const key = { fingerprint: "a int8", threads: 2, isStreamed: false };
  expect(await cachedCost(key, cacheFolder, measure)).toMatchObject({ fixedMs: 1 });
  expect(await cachedCost(key, cacheFolder, measure)).toMatchObject({ fixedMs: 1 });
  expect(await cachedCost({ ...key, threads: 1 }, cacheFolder, measure)).toMatchObject({ fixedMs: 2 });
  expect(await cachedCost({ ...key, isStreamed: true }, cacheFolder, measure)).toMatchObject({ fixedMs: 3 });
});

async function failing(): Promise<CostModel> {
  throw new Error("no steps");
}

test("measures without a cache if there can be none", async () => {
  const file = join(await temporaryFolder(), "file");
  await writeFile(file, "");
  const key = { fingerprint: "a", threads: 1, isStreamed: false };
  expect(await cachedCost(key, join(file, "below"), async () => TRUE_COST)).toEqual(TRUE_COST);
  await expect(cachedCost(key, join(file, "below"), failing)).rejects.toThrow("no steps");
  await expect(cachedCost(key, await temporaryFolder(), failing)).rejects.toThrow("no steps");
});
