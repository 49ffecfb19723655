// The scheduler changes when tokens are generated, never which: with a tiny Read-ME model in the engine's core, and
// the pocket model in an engine with the `scheduler` option.

import { join } from "node:path";
import { costAware, fcfs, readMe, type Scheduler } from "@readme-moe/core";
import { ReadMeEngine, resolveEngineOptions, type EngineOptions } from "@readme-moe/engine";
import type { Tokenizer } from "@readme-moe/model";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { complete } from "../support/complete.ts";
import { CoreBench, outcomesAlone, randomJobs } from "../support/core-bench.ts";
import { POCKET } from "../support/pocket.ts";
import { runningModel, type RunningModel } from "../support/running-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { WITH_TOKENIZER, writeTinyReadMe } from "../support/tiny-read-me.ts";

const SCHEDULERS: Readonly<Record<string, Scheduler>> = {
  "fcfs, decoding first": fcfs({ prefillShare: 0 }),
  "fcfs, half prefill": fcfs({ prefillShare: 0.5 }),
  "fcfs, prefill first": fcfs({ prefillShare: 1 }),
  "read-me": readMe(),
  "cost-aware": costAware(),
  "cost-aware, in small steps": costAware({ maxStepMs: 1, maxDelayMs: 20 }),
};

const folder = persistentFolder();
let running: RunningModel;
let tokenizer: Tokenizer;
beforeAll(async () => {
  const path = join(await folder, "model");
  await writeTinyReadMe(path, { ...WITH_TOKENIZER });
  running = await runningModel(path);
  ({ tokenizer } = await running.model.loadText());
});
afterAll(() => running[Symbol.asyncDispose]());

/** A clock that advances two milliseconds at each reading. */
function tickingClock(): () => number {
  let nowMs = 0;
  return () => (nowMs += 2);
}

interface Completed {
  readonly durationMs: number;
  readonly predictedMs: number;
}

describe("the same bits as alone", () => {
  const jobs = randomJobs(12, 11);
  let alone: CoreBench["outcomes"];
  beforeAll(async () => {
    alone = await outcomesAlone(jobs, running, tokenizer);
  });

  test.each(Object.entries(SCHEDULERS))("under %s", async (_, scheduler) => {
    const limits = { capacityTokens: 8192, maxNumSeqs: 10, maxNumBatchedSeqs: 4, maxNumBatchedTokens: 128 };
    const bench = new CoreBench(running, tokenizer, { ...limits, scheduler, now: tickingClock() });
    for (const [index, { id, promptIds, params }] of jobs.entries()) {
      bench.add(id, promptIds, params, index % 5 === 4 ? 1 : 0, false);
      if (index % 2 === 0) await bench.core.step();
    }
    await bench.finish();
    expect(Object.fromEntries(bench.outcomes)).toEqual(Object.fromEntries(alone));
  });
});

test("predictions of a step's time improve from step to step", async () => {
  const bench = new CoreBench(running, tokenizer, { capacityTokens: 1024, now: tickingClock() });
  bench.add("a", [1, 2, 3], { maxTokens: 60, temperature: 0 });
  await bench.finish();
  const steps = bench.events.flatMap(({ name, payload }) => (name === "batch:completed" ? [payload as Completed] : []));
  const errors = steps.map(({ durationMs, predictedMs }) => Math.abs(predictedMs - durationMs) / durationMs);
  expect(errors[0]).toBeGreaterThan(0.1);
  // The last step has less to do: no sequence is left to route.
  expect(Math.max(...errors.slice(30, -1))).toBeLessThan(0.05);
});

test.each<EngineOptions>([
  { scheduler: "fcfs", prefillShare: 0.5 },
  { scheduler: "read-me", maxDelayMs: 100 },
  { scheduler: "cost-aware", maxDelayMs: 100, maxStepMs: 50 },
])("an engine runs under %o", async (options) => {
  const params = { temperature: 0, maxTokens: 8, ignoreEos: true };
  const prompts = ["One", "Two words", "And three of them"];
  const inThread = { precision: "fp32", isolation: "thread", threads: 2 } as const;
  const engines = [
    await ReadMeEngine.open(POCKET, inThread),
    await ReadMeEngine.open(POCKET, { ...inThread, ...options }),
  ];
  const [expected, actual] = await Promise.all(
    engines.map((engine) => Promise.all(prompts.map((prompt) => complete(engine, { prompt, params })))),
  );
  expect(actual?.map(({ ids }) => ids)).toEqual(expected?.map(({ ids }) => ids));
  await Promise.all(engines.map((engine) => engine.dispose()));
});

describe("options", () => {
  test.each<[string, object, RegExp]>([
    ["an unknown scheduler", { scheduler: "fifo" }, /`scheduler`.*"fcfs", "read-me", "cost-aware", got `"fifo"`/],
    ["a share of another scheduler", { scheduler: "read-me", prefillShare: 0.5 }, /`prefillShare`.*"fcfs".*"read-me"/],
    ["a step's time of another scheduler", { scheduler: "fcfs", maxStepMs: 50 }, /`maxStepMs`.*"cost-aware".*"fcfs"/],
    ["a share above 1", { prefillShare: 1.5 }, /`prefillShare` to be from 0 to 1, got `1.5`/],
    ["a share in words", { prefillShare: "half" }, /`prefillShare` to be a number or "by-arrival", got `"half"`/],
    ["a negative delay", { maxDelayMs: -1 }, /`maxDelayMs` to be at least 0, got `-1`/],
    ["a delay that is no number", { maxDelayMs: Number.NaN }, /`maxDelayMs` to be a number/],
    ["a step of no time", { maxStepMs: 0 }, /`maxStepMs` to be at least 1, got `0`/],
  ])("%s is rejected", (_, options, message) => {
    expect(() => resolveEngineOptions(options)).toThrow(message);
  });

  test("have the defaults of the scheduler if they are absent", () => {
    expect(resolveEngineOptions({})).toMatchObject({ scheduler: "cost-aware", prefillShare: undefined });
    expect(resolveEngineOptions({ prefillShare: 0 })).toMatchObject({ scheduler: "fcfs", prefillShare: 0 });
    expect(resolveEngineOptions({ prefillShare: "by-arrival", maxDelayMs: 0.5 })).toMatchObject({
      prefillShare: "by-arrival",
      maxDelayMs: 0.5,
    });
  });
});
