// Prompts that are aborted while they are read: what was read stays, and another attempt gives the same bits.

import type { Tokenizer } from "@readme-moe/model";
import { afterAll, beforeAll, expect, test } from "vitest";
import { CoreBench, outcomesAlone, randomJobs } from "../support/core-bench.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { runningTinyModel } from "../support/running-tiny-model.ts";

const CHUNK = 64;

let running: Awaited<ReturnType<typeof runningTinyModel>>;
let tokenizer: Tokenizer;
beforeAll(async () => {
  running = await runningTinyModel();
  ({ tokenizer } = running);
});
afterAll(() => running[Symbol.asyncDispose]());

/** Bytes of one chunk of the model's keys and values. */
function chunkBytes(): number {
  const kv = running.runner.openKv({ capacityTokens: CHUNK });
  kv.dispose();
  return CHUNK * kv.bytesPerToken;
}

test.each([1, 2, 3])(
  "an attempt after random aborts reads at most one chunk twice, and gives the same bits (seed %i)",
  async (seed) => {
    const random = seededRandom(seed);
    const jobs = randomJobs(20, seed, 220);
    const alone = await outcomesAlone(jobs, running, tokenizer);
    // Much more is read than the bytes of the prefix cache.
    const limits = { capacityTokens: 8192, maxNumBatchedTokens: 256, prefixCacheBytes: chunkBytes() };
    const bench = new CoreBench(running, tokenizer, limits);
    const expected = new Map<string, number>();
    let numCut = 0;
    for (const { id, promptIds, params } of jobs) bench.add(`${id}, cut`, promptIds, params);
    const left = new Map(jobs.map((job) => [`${job.id}, cut`, job]));
    while (left.size > 0) {
      const step = bench.core.step();
      const isBegun = (id: string): boolean => bench.readings.some((one) => one.id === id && one.numComputedTokens > 0);
      const chosen = [...left.keys()].filter((id) => random() < (isBegun(id) ? 0.4 : 0.05));
      // In the middle of the step, or behind it.
      const isInStep = randomInteger(random, 2) === 0;
      if (!isInStep) await step;
      for (const id of chosen) bench.core.abort(id);
      await step;
      bench.core.checkIntegrity();
      for (const id of chosen) {
        const job = left.get(id);
        left.delete(id);
        if (!job || bench.ending(id).reason !== "abort") continue;
        const isRead = bench.outcomes.has(id);
        const readTokens = bench.readings.findLast((one) => one.id === id)?.numComputedTokens ?? 0;
        const most = Math.min(isRead ? Infinity : readTokens, job.promptIds.length - 1);
        expected.set(job.id, Math.floor(most / CHUNK) * CHUNK);
        if (!isRead && most >= CHUNK) numCut++;
        bench.add(job.id, job.promptIds, job.params);
      }
    }
    await bench.finish();
    // Pages behind the last chunk may be found, too.
    for (const [id, least] of expected) expect(bench.ending(id).cachedTokens, id).toBeGreaterThanOrEqual(least);
    for (const { id } of jobs) {
      const outcome = bench.outcomes.get(id);
      if (outcome) expect(outcome).toEqual(alone.get(id));
    }
    expect(numCut).toBeGreaterThan(2);
    expect(bench.core.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvUsedTokens: 0 });
  },
);

test("a prompt as long as all memory is found again after it was aborted at its end", async () => {
  const limits = { capacityTokens: 320, maxNumBatchedTokens: 64, prefixCacheBytes: chunkBytes() };
  const bench = new CoreBench(running, tokenizer, limits);
  const promptIds = Array.from({ length: 250 }, (_, at) => 1 + (at % 90));
  bench.add("first", promptIds, { maxTokens: 2, temperature: 0 });
  for (let step = 0; step < 3; step++) await bench.core.step();
  bench.core.abort("first");
  bench.add("second", promptIds, { maxTokens: 2, temperature: 0 });
  await bench.finish();
  expect(bench.ending("second")).toMatchObject({ reason: "length", cachedTokens: 192 });
});

test("progress is reported when the first step begins, and behind each step that does not end the prompt", async () => {
  const bench = new CoreBench(running, tokenizer, { capacityTokens: 640, maxNumBatchedTokens: 64 });
  bench.add("long", Array<number>(200).fill(5), { maxTokens: 2, temperature: 0 });
  bench.add("short", Array<number>(10).fill(6), { maxTokens: 2, temperature: 0 });
  await bench.finish();
  expect(bench.readings.map(({ id, numComputedTokens }) => [id, numComputedTokens])).toEqual(
    [0, 64, 128, 192].map((tokens) => ["long", tokens]),
  );
});
