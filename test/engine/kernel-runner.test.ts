// Steps of a dense model in the kernel, through `StepRunner`: the pocket model.

import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { KernelRunner, type LoadProgress, type StepLogits } from "@readme-moe/engine";
import type { KvSlot } from "@readme-moe/kernel";
import { openModel } from "@readme-moe/model";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { sampleFlat } from "../support/flat-sampling.ts";
import { POCKET } from "../support/pocket.ts";
import { runningModel, type RunningModel } from "../support/running-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

let running: RunningModel;
beforeAll(async () => {
  running = await runningModel(POCKET, undefined, "int8");
});
afterAll(() => running[Symbol.asyncDispose]());

/** Runs tokens of a new sequence, in calls of the given sizes. */
async function run(runner: KernelRunner, ids: readonly number[], perStep: number, wanted: readonly number[]) {
  const kv = runner.openKv({ capacityTokens: 1024 });
  const slot = kv.admit(ids.length) as KvSlot;
  const rows: StepLogits[] = [];
  for (let from = 0; from < ids.length; from += perStep) {
    const tokenIds = ids.slice(from, from + perStep);
    const logitsOf = wanted.map((row) => row - from).filter((row) => row >= 0 && row < tokenIds.length);
    const experts = new Uint16Array(tokenIds.length);
    const [result] = await runner.forward(kv, [{ slot, tokenIds, experts, logitsOf, wantsFullLogits: true }], 3);
    rows.push({ ...(result as StepLogits), fullLogits: (result as StepLogits).fullLogits.slice() });
  }
  kv.dispose();
  return rows;
}

const IDS = Array.from({ length: 700 }, (_, index) => (index * 37 + 11) % 4096);

test("a step with more rows than one call gives the same bits as small steps", async () => {
  const runner = running.runner as KernelRunner;
  const [whole] = await run(runner, IDS, 700, [600, 699]);
  const pieces = await run(runner, IDS, 77, [600, 699]);
  const joined = pieces.flatMap(({ fullLogits }) => Array.from(fullLogits));
  expect(Array.from(whole?.fullLogits ?? [])).toEqual(joined);
});

function rowOf({ fullLogits }: StepLogits, row: number): readonly number[] {
  return Array.from(fullLogits.subarray(row * 4096, (row + 1) * 4096));
}

test("rows are returned in the order in which they are wanted, also twice", async () => {
  const runner = running.runner as KernelRunner;
  const [rising] = await run(runner, IDS.slice(0, 9), 9, [2, 5, 8]);
  const [mixed] = await run(runner, IDS.slice(0, 9), 9, [8, 2, 2, 5]);
  const order = [2, 0, 0, 1];
  for (const [row, place] of order.entries()) {
    expect(rowOf(mixed as StepLogits, row)).toEqual(rowOf(rising as StepLogits, place));
    expect(mixed?.logSumExp[row]).toBe(rising?.logSumExp[place]);
  }
});

test("memory of another runner is rejected", async () => {
  await using other = await runningModel(POCKET, undefined, "int8");
  const kv = other.runner.openKv({ capacityTokens: 64 });
  const slot = kv.admit(4) as KvSlot;
  const step = [{ slot, tokenIds: [1], experts: [0], logitsOf: [0] }];
  await expect(running.runner.forward(kv, step)).rejects.toThrow(TypeError);
});

test("a token that the best candidates do not decide is chosen without a second step", async () => {
  const { tokenizer } = await running.model.loadText();
  const { numRuns, numSteps, fromCandidates, fromAllLogits } = await sampleFlat(running, tokenizer);
  expect(numRuns).toBe(numSteps);
  expect(fromCandidates).toEqual(fromAllLogits);
});

test("a cached file that is removed after its check is written again", async () => {
  const cacheFolder = await temporaryFolder();
  const model = await openModel(POCKET);
  let numLoads = 0;
  const onProgress = ({ stage }: LoadProgress): void => {
    if (stage === "loading" && numLoads++ === 0) rmSync(join(cacheFolder, "kernels"), { recursive: true });
  };
  const runner = await KernelRunner.open(model, { precision: "int8", threads: 1, cacheFolder, onProgress });
  expect(numLoads).toBe(2);
  expect(readdirSync(join(cacheFolder, "kernels"))).toHaveLength(1);
  await runner.dispose();
  await model.close();
});

describe("the build of the kernel", () => {
  test("is chosen by option and by environment, and reported", async () => {
    const model = await openModel(POCKET);
    const byOption = await KernelRunner.open(model, { precision: "int8", kernel: "wasm", threads: 3 });
    expect(byOption.info).toEqual({ kind: "wasm", instructions: expect.stringMatching(/^wasm/), threads: 3 });
    vi.stubEnv("README_MOE_KERNEL", "wasm");
    const byEnvironment = await KernelRunner.open(model, { precision: "int8", threads: 1 });
    vi.unstubAllEnvs();
    expect(byEnvironment.info).toMatchObject({ kind: "wasm", threads: 1 });
    for (const runner of [byOption, byEnvironment]) await runner.dispose();
    await model.close();
  });

  test("an unknown name is rejected", async () => {
    const model = await openModel(POCKET);
    await expect(KernelRunner.open(model, { kernel: "wsam" as "wasm" })).rejects.toThrow(/`kernel`.*"native", "wasm"/);
    await expect(KernelRunner.open(model, { instructions: "mmx" })).rejects.toThrow(/`instructions`/);
    await model.close();
  });
});
