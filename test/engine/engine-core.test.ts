// The engine's core in this thread, with a tiny Read-ME model: random operations with every decision checked.

import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { CoreBench, outcomesAlone, randomJobs, type Job, type Limits } from "../support/core-bench.ts";
import { sampleFlat } from "../support/flat-sampling.ts";
import { keepingNoRows } from "../support/keeping-no-rows.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { runningModel, type RunningModel } from "../support/running-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { WITH_TOKENIZER, writeTinyReadMe } from "../support/tiny-read-me.ts";
import type { Tokenizer } from "@readme-moe/model";

const folder = persistentFolder();
let running: RunningModel;
let int8: RunningModel;
let tokenizer: Tokenizer;
beforeAll(async () => {
  const path = join(await folder, "model");
  await writeTinyReadMe(path, { ...WITH_TOKENIZER });
  running = await runningModel(path);
  int8 = await runningModel(path, undefined, "int8");
  ({ tokenizer } = await running.model.loadText());
});
afterAll(async () => {
  await running[Symbol.asyncDispose]();
  await int8[Symbol.asyncDispose]();
});

const aloneOutcomes = (jobs: readonly Job[], model = running): Promise<CoreBench["outcomes"]> =>
  outcomesAlone(jobs, model, tokenizer);

describe("a sequence's tokens and log-probabilities are the same bits", () => {
  const jobs = randomJobs(12, 1);
  let alone: CoreBench["outcomes"];
  beforeAll(async () => {
    alone = await aloneOutcomes(jobs);
  });

  const limits: Readonly<Record<string, Limits>> = {
    "beside eleven others": { capacityTokens: 8192, maxNumSeqs: 12 },
    "with few in a step": { capacityTokens: 8192, maxNumSeqs: 12, maxNumBatchedSeqs: 3 },
    "with few tokens in a step": { capacityTokens: 8192, maxNumSeqs: 12, maxNumBatchedTokens: 64 },
    "with few admitted": { capacityTokens: 8192, maxNumSeqs: 2 },
  };
  test.each(Object.entries(limits))("%s", async (_, limit) => {
    for (const order of [jobs, jobs.toReversed()]) {
      const bench = new CoreBench(running, tokenizer, limit);
      for (const { id, promptIds, params } of order) bench.add(id, promptIds, params);
      await bench.finish();
      expect(bench.count("sequence:preempted")).toBe(0);
      expect(Object.fromEntries(bench.outcomes)).toEqual(Object.fromEntries(alone));
    }
  });

  test("in int8, in two orders, different from those in float32", async () => {
    const expected = await aloneOutcomes(jobs, int8);
    for (const order of [jobs, jobs.toReversed()]) {
      const bench = new CoreBench(int8, tokenizer, { capacityTokens: 8192, maxNumSeqs: 12, maxNumBatchedSeqs: 7 });
      for (const { id, promptIds, params } of order) bench.add(id, promptIds, params);
      await bench.finish();
      expect(Object.fromEntries(bench.outcomes)).toEqual(Object.fromEntries(expected));
    }
    expect(Object.fromEntries(expected)).not.toEqual(Object.fromEntries(alone));
  });

  test("if they arrive while other sequences run", async () => {
    const bench = new CoreBench(running, tokenizer, { capacityTokens: 8192, maxNumSeqs: 12 });
    for (const { id, promptIds, params } of jobs) {
      bench.add(id, promptIds, params);
      await bench.core.step();
      bench.core.checkIntegrity();
    }
    await bench.finish();
    expect(Object.fromEntries(bench.outcomes)).toEqual(Object.fromEntries(alone));
  });

  test("if they begin with a cached prefix", async () => {
    const random = seededRandom(9);
    const system = Array.from({ length: 130 }, () => randomInteger(random, 4096));
    const alike = jobs.slice(0, 6).map((job) => ({ ...job, promptIds: [...system, ...job.promptIds.slice(0, 60)] }));
    const expected = await aloneOutcomes(alike);
    const bench = new CoreBench(running, tokenizer, { capacityTokens: 8192, prefixCacheBytes: 1 << 20 });
    for (const { id, promptIds, params } of alike) {
      bench.add(id, promptIds, params);
      await bench.finish();
    }
    expect(bench.core.stats().cachedTokens).toBe(5 * 128);
    expect(Object.fromEntries(bench.outcomes)).toEqual(Object.fromEntries(expected));
  });
});

describe("when memory is short", () => {
  test("preempts later sequences, computes them again, and gives the same tokens as alone", async () => {
    const jobs = randomJobs(10, 2, 60).map((job) => ({ ...job, params: { ...job.params, maxTokens: 150 } }));
    const alone = await aloneOutcomes(jobs);
    const bench = new CoreBench(running, tokenizer, { capacityTokens: 640, maxNumSeqs: 10 });
    for (const { id, promptIds, params } of jobs) bench.add(id, promptIds, params);
    await bench.finish();
    expect(bench.count("sequence:preempted")).toBeGreaterThan(2);
    for (const { id } of jobs) {
      const [actual, expected] = [bench.outcomes.get(id), alone.get(id)];
      expect(actual?.tokens).toEqual(expected?.tokens);
      // Tokens of a completion that were computed one by one are computed again in one piece.
      actual?.logprobs.forEach((logprob, index) => expect(logprob).toBeCloseTo(expected?.logprobs[index] ?? 0, 4));
    }
  });

  test("lets sequences with a higher priority keep their memory", async () => {
    const bench = new CoreBench(running, tokenizer, { capacityTokens: 256, maxNumSeqs: 4 });
    const params = { maxTokens: 40, temperature: 0 };
    for (const [index, priority] of [0, 0, 5, 0].entries()) bench.add(`${index}`, Array(50).fill(7), params, priority);
    await bench.finish();
    const order = bench.events.flatMap(({ name, payload }) =>
      name === "sequence:finished" ? [(payload as { sequenceId: string }).sequenceId] : [],
    );
    expect(order[0]).toBe("2");
  });
});

test(
  "random operations in any order keep the accounting right and forget no sequence",
  { timeout: 300_000 },
  async () => {
    for (const seed of [1, 2, 3]) {
      const random = seededRandom(seed);
      const bench = new CoreBench(running, tokenizer, {
        capacityTokens: 1024,
        maxNumSeqs: 6,
        maxNumBatchedSeqs: 4,
        prefixCacheBytes: 200_000,
      });
      const jobs = randomJobs(60, seed + 100, 200);
      const aborted = new Set<string>();
      let next = 0;
      while (next < jobs.length || bench.core.hasWork) {
        const choice = random();
        const job = jobs[next];
        if (choice < 0.3 && job) {
          bench.add(job.id, job.promptIds, job.params, randomInteger(random, 3));
          next++;
        } else if (choice < 0.36 && next > 0) {
          const id = `job-${randomInteger(random, next)}`;
          if (!bench.outcomes.get(id)?.finishReason) aborted.add(id);
          bench.core.abort(id);
        } else {
          await bench.core.step();
        }
        bench.core.checkIntegrity();
      }
      for (const { id, params } of jobs) {
        const outcome = bench.outcomes.get(id);
        if (aborted.has(id)) continue;
        expect(outcome?.error).toBeUndefined();
        expect(outcome?.tokens).toHaveLength(params.maxTokens as number);
        expect(outcome?.finishReason).toBe("length");
      }
      expect(bench.core.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvUsedTokens: 0 });
    }
  },
);

test("a row whose best candidates do not decide runs again, and gives the same token as all logits", async () => {
  const { numRuns, numSteps, fromCandidates, fromAllLogits } = await sampleFlat(keepingNoRows(running), tokenizer);
  expect(numRuns).toBeGreaterThan(numSteps);
  expect(fromCandidates).toEqual(fromAllLogits);
});

test("an abort frees the slot before the next step", async () => {
  const bench = new CoreBench(running, tokenizer, { capacityTokens: 1024 });
  bench.add("a", [1, 2, 3], { maxTokens: 100, temperature: 0 });
  bench.add("b", [4, 5, 6], { maxTokens: 3, temperature: 0 });
  await bench.core.step();
  expect(bench.core.stats().numRunning).toBe(2);
  bench.core.abort("a");
  expect(bench.core.stats().numRunning).toBe(1);
  const stepping = bench.core.step();
  bench.core.abort("b");
  await stepping;
  expect(bench.core.stats()).toMatchObject({ numRunning: 0, kvUsedTokens: 0 });
  bench.core.checkIntegrity();
});
