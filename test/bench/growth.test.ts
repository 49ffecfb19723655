// Growth suite: shapes match their models, and measured work really runs.

import { join } from "node:path";
import { openModel } from "@readme-moe/model";
import type { SuiteContext } from "../../bench/kit/suite.ts";
import { describe, expect, test } from "vitest";
import { type Queue, SCHEDULERS, schedulingMs } from "../../bench/growth/scheduling-time.ts";
import { parametersOf, SHAPES, TINY } from "../../bench/growth/shapes.ts";
import { runSteps } from "../../bench/growth/steps-job.ts";
import { sweepsOf } from "../../bench/growth/sweeps.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const POCKET = join(import.meta.dirname, "..", "..", "models", "pocket");

function contextOf(set: Readonly<Record<string, string>>, quick = false): SuiteContext {
  const paths = { model: POCKET, dense: undefined, data: [], cacheFolder: undefined };
  const settings = { ...paths, quick, rounds: 1, seed: 1, threads: 1, set };
  return { settings, folder: "", keep: (_, work) => work(), say: () => undefined };
}

function withNorms(name: string): number {
  const shape = SHAPES[name];
  if (!shape) throw new Error(`There is no shape ${name}`);
  return parametersOf(shape) + (2 * shape.numLayers + 1) * shape.hiddenSize;
}

test("shapes have as many weights as the models they are named after", () => {
  expect(withNorms("135m")).toBe(134_515_008);
  expect(withNorms("360m")).toBe(361_821_120);
  expect(withNorms("1b")).toBe(1_235_814_400);
  expect(withNorms("3b")).toBe(3_212_749_824);
});

describe("sweeps", () => {
  test("vary one input, and reach the requested sizes", () => {
    const sweeps = new Map(sweepsOf(contextOf({})).map((sweep) => [sweep.name, sweep.points]));
    const atsOf = (name: string) => sweeps.get(name)?.flatMap(({ cases }) => cases.map(({ at }) => at));
    expect(atsOf("sequences")?.at(-1)).toBe(256);
    expect(atsOf("context")).toEqual([64, 256, 1024, 4096]);
    expect(atsOf("experts, all used")?.at(-1)).toBe(64);
    expect(atsOf("size")?.at(-1)).toBeGreaterThan(3e9);
    const distinct = (name: string) => sweeps.get(name)?.flatMap(({ cases }) => cases.map((one) => one.distinct));
    expect(distinct("experts, all used")).toEqual(atsOf("experts, all used"));
    expect(distinct("experts, one used")?.every((count) => count === 1)).toBe(true);
    expect(() => sweepsOf(contextOf({ sizes: "7b" }))).toThrow(/Expected `--set sizes` to be of 20m, .*, got `7b`/);
  });

  test("measure steps of a model in its own process", async () => {
    const cacheFolder = await temporaryFolder();
    const cases = [1, 4].map((numSeqs) => ({ numSeqs, past: 64, distinct: Math.min(2, numSeqs) }));
    const job = { shape: TINY, numExperts: 2, expertSize: 128, precision: "int8", threads: 1, cacheFolder } as const;
    const answer = await runSteps({ ...job, cases, rounds: 2 });
    expect(answer.cases.map(({ medianMs }) => medianMs > 0)).toEqual([true, true]);
    expect(answer.cases[0]?.peakBytes).toBeGreaterThan(20e6);
    expect(answer.openMs).toBeGreaterThan(0);
    const broken = runSteps({ ...job, shape: { ...TINY, numKvHeads: 5 }, cases, rounds: 2 });
    await expect(broken).rejects.toThrow();
  });
});

test.each(Object.entries(SCHEDULERS))("deciding is timed on a real queue with %s", async (_, make) => {
  const model = await openModel(POCKET);
  const { tokenizer } = await model.loadText();
  const asked: number[] = [];
  const chosen: number[] = [];
  const scheduler = make();
  const watched: ReturnType<typeof make> = (state) => {
    const scheduled = scheduler(state);
    asked.push(state.sequences.length);
    chosen.push(scheduled.length);
    return scheduled;
  };
  const queue: Queue = { numRunning: 12, numBatched: 4, numWaiting: 20, numExperts: 3, isStreamed: false };
  expect(schedulingMs(watched, model, tokenizer, { ...queue, rounds: 2, seed: 1 })).toBeGreaterThan(0);
  expect(new Set(asked)).toEqual(new Set([12]));
  expect(Math.min(...chosen)).toBeGreaterThan(0);
  expect(Math.max(...chosen)).toBeLessThanOrEqual(4);
  const before = asked.length;
  // With streamed experts the scheduler also plans the next step.
  schedulingMs(watched, model, tokenizer, { ...queue, isStreamed: true, rounds: 2, seed: 1 });
  expect(asked.length - before).toBe(2 * before);
  await model.close();
});
