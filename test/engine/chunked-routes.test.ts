// Long prompts are routed in several calls of their router, with steps of other sequences in between.

import { openModel, type Model, type Tokenizer } from "@readme-moe/model";
import { afterAll, beforeAll, expect, test } from "vitest";
import { inChunks } from "../support/in-chunks.ts";
import { CoreBench, outcomesAlone, randomJobs, type BenchModel } from "../support/core-bench.ts";
import { runningModel, type RunningModel } from "../support/running-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { WITH_TOKENIZER, writeTinyReadMe } from "../support/tiny-read-me.ts";

let running: RunningModel;
let model: Model;
let tokenizer: Tokenizer;
beforeAll(async () => {
  const path = `${await persistentFolder()}/model`;
  await writeTinyReadMe(path, { ...WITH_TOKENIZER, numExperts: 3 });
  running = await runningModel(path);
  model = await openModel(path);
  ({ tokenizer } = await model.loadText());
});
afterAll(async () => {
  await running[Symbol.asyncDispose]();
  await model.close();
});

const LIMITS = { capacityTokens: 8192, maxNumSeqs: 12 };

test.each([1, 7, 64, 1000])(
  "%i tokens a call change no token, and no call has more but for decodes",
  async (chunkTokens) => {
    const jobs = randomJobs(8, 3);
    const expected = await outcomesAlone(jobs, running, tokenizer);
    const calls: number[] = [];
    const chunked: BenchModel = { runner: running.runner, router: inChunks(running.router, chunkTokens, calls) };
    const bench = new CoreBench(chunked, tokenizer, LIMITS);
    for (const { id, promptIds, params } of jobs) bench.add(id, promptIds, params);
    await bench.finish();
    expect(Object.fromEntries(bench.outcomes)).toEqual(Object.fromEntries(expected));
    expect(Math.max(...calls)).toBeLessThanOrEqual(Math.max(chunkTokens, jobs.length));
    expect(calls.reduce((sum, count) => sum + count, 0)).toBeGreaterThanOrEqual(
      jobs.reduce((sum, { promptIds }) => sum + promptIds.length, 0),
    );
  },
);

test("other sequences decode while a long prompt is routed", async () => {
  const calls: number[] = [];
  const chunked: BenchModel = { runner: running.runner, router: inChunks(running.router, 16, calls) };
  const bench = new CoreBench(chunked, tokenizer, LIMITS);
  bench.add("short", [5, 6, 7], { maxTokens: 30, temperature: 0, ignoreEos: true });
  await bench.core.step();
  const long = Array.from({ length: 160 }, (_, index) => 10 + index);
  bench.add("long", long, { maxTokens: 2, temperature: 0, ignoreEos: true });
  const tokensOf = (id: string): number => bench.outcomes.get(id)?.tokens.length ?? 0;
  const before = tokensOf("short");
  while (bench.count("sequence:queued") < 2) {
    expect(tokensOf("long")).toBe(0);
    await bench.core.step();
  }
  // Ten calls of sixteen tokens: nine steps end before the last of them.
  expect(tokensOf("short") - before).toBeGreaterThanOrEqual(9);
  await bench.finish();
  expect(tokensOf("long")).toBe(2);
});

test("a sequence that is aborted while it is routed ends, and nothing waits for it", async () => {
  const chunked: BenchModel = { runner: running.runner, router: inChunks(running.router, 16, []) };
  const bench = new CoreBench(chunked, tokenizer, LIMITS);
  bench.add(
    "long",
    Array.from({ length: 160 }, (_, index) => 10 + index),
    { maxTokens: 2 },
  );
  await bench.core.step();
  expect(bench.core.hasWork).toBe(true);
  bench.core.abort("long");
  await bench.finish();
  expect(bench.core.hasWork).toBe(false);
  expect(bench.count("sequence:finished")).toBe(1);
});
