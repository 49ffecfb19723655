// Sequences whose callers have their logits, in the engine's core: they keep their places and do not run. With a tiny
// Read-ME model, whose tokens are routed.

import { join } from "node:path";
import type { Tokenizer } from "@readme-moe/model";
import { afterAll, beforeAll, expect, test } from "vitest";
import { CoreBench, outcomesAlone, randomJobs } from "../support/core-bench.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { runningModel, type RunningModel } from "../support/running-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { WITH_TOKENIZER, writeTinyReadMe } from "../support/tiny-read-me.ts";

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

const greedy = { temperature: 0, maxTokens: 40 };

/** Answers the first awaited row, or another one, unchanged. */
function answerOne({ core, rows }: CoreBench, index = 0): void {
  for (const { rowId, logits } of rows.splice(index, 1)) core.answer(rowId, logits);
}

/** Lists the ids of each step since `from`, an index into the events. */
function stepsSince({ events }: CoreBench, from: number): readonly (readonly string[])[] {
  return events
    .slice(from)
    .flatMap(({ name, payload }) =>
      name === "batch:scheduled" ? [(payload as { sequenceIds: readonly string[] }).sequenceIds] : [],
    );
}

test("other sequences run meanwhile, and the step after an answer contains the sequence again", async () => {
  const bench = new CoreBench(running, tokenizer, { capacityTokens: 1024 });
  bench.add("asks", [1, 2, 3], greedy, 0, true);
  bench.add("plain", [4, 5, 6], greedy);
  for (let step = 0; step < 3; step++) await bench.core.step();
  expect(stepsSince(bench, 0)).toEqual([["asks", "plain"], ["plain"], ["plain"]]);
  expect(bench.outcomes.get("plain")?.tokens).toHaveLength(3);
  expect(bench.rows).toHaveLength(1);
  const from = bench.events.length;
  answerOne(bench);
  await bench.core.step();
  expect(stepsSince(bench, from)).toEqual([["asks", "plain"]]);
  expect(bench.outcomes.get("asks")?.tokens).toHaveLength(1);
  expect(bench.rows).toHaveLength(1);
});

test("there is no work while callers have all rows, until an answer, an abort or a new sequence", async () => {
  const bench = new CoreBench(running, tokenizer, { capacityTokens: 1024, maxNumSeqs: 2 });
  for (const id of ["a", "b", "c"]) bench.add(id, [1, 2, 3], greedy, 0, true);
  await bench.finish();
  expect(bench.core.stats()).toMatchObject({ numRunning: 2, numWaiting: 1 });
  const steps = bench.count("batch:scheduled");
  bench.add("d", [1, 2, 3], greedy, 0, true);
  await bench.finish();
  expect(bench.count("batch:scheduled")).toBe(steps);
  const late = bench.rows.find(({ id }) => id === "a");
  bench.core.abort("a");
  expect(bench.core.hasWork).toBe(true);
  await bench.finish();
  expect(bench.rows.map(({ id }) => id)).toEqual(["a", "b", "c"]);
  // An answer for a sequence that has ended is ignored.
  bench.core.answer(late?.rowId ?? 0, late?.logits ?? new Float32Array());
  await bench.finish();
  expect(bench.outcomes.size).toBe(0);
  for (const id of ["b", "c", "d"]) bench.core.abort(id);
  expect(bench.core.hasWork).toBe(false);
  expect(bench.core.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvUsedTokens: 0 });
});

test("answers that arrive late and in any order, also after a preemption, give the same tokens", async () => {
  const jobs = randomJobs(8, 2, 60).map((job) => ({ ...job, params: { ...job.params, maxTokens: 80 } }));
  const alone = await outcomesAlone(jobs, running, tokenizer);
  const random = seededRandom(4);
  const bench = new CoreBench(running, tokenizer, { capacityTokens: 320, maxNumSeqs: 10, prefixCacheBytes: 1 << 20 });
  for (const [index, { id, promptIds, params }] of jobs.entries()) bench.add(id, promptIds, params, 0, index % 3 > 0);
  let numAwayAndPreempted = 0;
  while (bench.core.hasWork || bench.rows.length > 0) {
    if (bench.rows.length > 0 && random() < 0.6) answerOne(bench, randomInteger(random, bench.rows.length));
    const from = bench.events.length;
    await bench.core.step();
    bench.core.checkIntegrity();
    for (const { name, payload } of bench.events.slice(from)) {
      const isAway = bench.rows.some(({ id }) => id === (payload as { sequenceId?: string }).sequenceId);
      if (name === "sequence:preempted" && isAway) numAwayAndPreempted++;
    }
  }
  expect(numAwayAndPreempted).toBeGreaterThan(0);
  for (const { id } of jobs) expect(bench.outcomes.get(id)?.tokens).toEqual(alone.get(id)?.tokens);
});

test("answers, arrivals and aborts in any order keep the accounting right and forget no sequence", async () => {
  for (const seed of [1, 2]) {
    const random = seededRandom(seed);
    const bench = new CoreBench(running, tokenizer, { capacityTokens: 1024, maxNumSeqs: 6, maxNumBatchedSeqs: 4 });
    const jobs = randomJobs(40, seed + 200, 200);
    const aborted = new Set<string>();
    let next = 0;
    while (next < jobs.length || bench.core.hasWork || bench.rows.length > 0) {
      const choice = random();
      const job = jobs[next];
      if (choice < 0.2 && job) {
        bench.add(job.id, job.promptIds, job.params, randomInteger(random, 3), next++ % 2 === 0);
      } else if (choice < 0.24 && next > 0) {
        const id = `job-${randomInteger(random, next)}`;
        if (!bench.outcomes.get(id)?.finishReason) aborted.add(id);
        bench.core.abort(id);
      } else if (choice < 0.7 && bench.rows.length > 0) {
        const stepping = bench.core.hasWork && choice < 0.4 ? bench.core.step() : undefined;
        answerOne(bench, randomInteger(random, bench.rows.length));
        await stepping;
      } else if (bench.core.hasWork) {
        await bench.core.step();
      }
      bench.core.checkIntegrity();
    }
    for (const { id, params } of jobs.filter((one) => !aborted.has(one.id))) {
      expect(bench.outcomes.get(id)?.error).toBeUndefined();
      expect(bench.outcomes.get(id)).toMatchObject({ finishReason: "length" });
      expect(bench.outcomes.get(id)?.tokens).toHaveLength(params.maxTokens as number);
    }
    expect(bench.core.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvUsedTokens: 0 });
  }
});
