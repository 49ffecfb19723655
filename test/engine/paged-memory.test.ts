// The engine on pages: the same answers for many sequences as for one, shared prefixes, and no memory that is lost.

import { join } from "node:path";
import { PagePool } from "@readme-moe/kernel";
import type { Tokenizer } from "@readme-moe/model";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { scorePassages } from "../../packages/engine/src/evaluation/score-passages.ts";
import type { SequenceStart } from "../../packages/engine/src/sequence.ts";
import { EngineDrafter } from "../../packages/engine/src/speculation/engine-drafter.ts";
import { CoreBench, outcomesAlone, randomJobs, type BenchModel, type Limits } from "../support/core-bench.ts";
import { inChunks } from "../support/in-chunks.ts";
import { keepingNoRows } from "../support/keeping-no-rows.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { runningModel, type RunningModel } from "../support/running-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { WITH_TOKENIZER, writeTinyReadMe } from "../support/tiny-read-me.ts";

const PREFIX_BYTES = 1 << 20;

let running: RunningModel;
let paged: BenchModel;
let tokenizer: Tokenizer;
beforeAll(async () => {
  const path = join(await persistentFolder(), "model");
  await writeTinyReadMe(path, { ...WITH_TOKENIZER });
  running = await runningModel(path);
  paged = running;
  ({ tokenizer } = await running.model.loadText());
});
afterAll(() => running[Symbol.asyncDispose]());

function poolOf({ admission: { kv } }: CoreBench): PagePool {
  if (!(kv instanceof PagePool)) throw new TypeError("Expected an engine on pages");
  return kv;
}

/** Creates jobs with the same first 130 tokens. */
function jobsAlike(count: number, ownTokens: number) {
  const random = seededRandom(9);
  const system = Array.from({ length: 130 }, () => randomInteger(random, 4096));
  return randomJobs(count, 1).map((job) => ({ ...job, promptIds: [...system, ...job.promptIds.slice(0, ownTokens)] }));
}

const limits: Readonly<Record<string, Limits>> = {
  "with room for all": { capacityTokens: 8192, maxNumSeqs: 12 },
  "with few tokens in a step": { capacityTokens: 8192, maxNumSeqs: 12, maxNumBatchedTokens: 64 },
  "with a prefix cache": { capacityTokens: 8192, maxNumSeqs: 12, prefixCacheBytes: PREFIX_BYTES },
};
test.each(Object.entries(limits))("gives the same bits as alone, %s", async (_, limit) => {
  const jobs = [...randomJobs(6, 1), ...jobsAlike(6, 60).map((job) => ({ ...job, id: `alike-${job.id}` }))];
  const expected = await outcomesAlone(jobs, running, tokenizer);
  const bench = new CoreBench(paged, tokenizer, limit);
  for (const { id, promptIds, params } of jobs) bench.add(id, promptIds, params);
  await bench.finish();
  expect(Object.fromEntries(bench.outcomes)).toEqual(Object.fromEntries(expected));
  expect(poolOf(bench).usedTokens).toBe(0);
});

test("sequences with the same prefix share memory, so more of them fit", async () => {
  const jobs = jobsAlike(7, 10);
  // All prompts are routed in one call, so that all are admitted in one step.
  const { runner, router } = paged;
  const whole = { runner, router: inChunks(router, undefined) };
  const bench = new CoreBench(whole, tokenizer, { capacityTokens: 640, prefixCacheBytes: PREFIX_BYTES });
  const [first, ...others] = jobs;
  bench.add("first", first?.promptIds ?? [], { maxTokens: 1 });
  await bench.finish();
  expect(poolOf(bench)).toMatchObject({ usedTokens: 0, keptTokens: 128 });
  // Each needs 13 pages, of which they share 8: one takes 13 of the 40 pages, each other one 5.
  for (const { id, promptIds } of others) bench.add(id, promptIds, { maxTokens: 3, temperature: 0 });
  await bench.core.step();
  expect(bench.core.stats()).toMatchObject({ numRunning: 6, kvUsedTokens: 16 * (8 + 6 * 5) });
  await bench.finish();
  expect(bench.core.stats().cachedTokens).toBe(6 * 128);
  expect(poolOf(bench)).toMatchObject({ usedTokens: 0, keptTokens: 128 });
});

test("a waiting sequence with a cached prefix changes nothing until it is admitted", async () => {
  const jobs = jobsAlike(2, 60);
  const bench = new CoreBench(paged, tokenizer, { capacityTokens: 320, prefixCacheBytes: PREFIX_BYTES });
  bench.add("first", jobs[0]?.promptIds ?? [], { maxTokens: 1 });
  await bench.finish();
  bench.add("other", Array<number>(180).fill(7), { maxTokens: 40, temperature: 0 });
  await bench.core.step();
  bench.add("waits", jobs[1]?.promptIds ?? [], { maxTokens: 1 });
  for (let step = 0; step < 10; step++) await bench.core.step();
  expect(bench.core.stats()).toMatchObject({ numRunning: 1, numWaiting: 1 });
  bench.core.checkIntegrity();
  bench.core.abort("other");
  await bench.finish();
  expect(bench.core.stats()).toMatchObject({ numRunning: 0, cachedTokens: 128, kvUsedTokens: 0 });
});

test("a prompt whose last chunk is cached already can run again", async () => {
  // Best candidates do not decide on the first token of some of them, so the prompt runs again for all logits.
  const jobs = Array.from({ length: 8 }, (_, seed) => ({
    id: `${seed}`,
    promptIds: Array.from({ length: 64 }, (_token, index) => index + 100 * seed),
    params: { temperature: 8, minP: 0.05, maxTokens: 3, seed },
  }));
  const expected = await outcomesAlone(jobs, running, tokenizer);
  const bench = new CoreBench(keepingNoRows(paged), tokenizer, {
    capacityTokens: 1024,
    prefixCacheBytes: PREFIX_BYTES,
  });
  for (const { id, promptIds, params } of jobs) bench.add(id, promptIds, params);
  const truncate = vi.spyOn(poolOf(bench), "truncate");
  await bench.finish();
  expect(truncate).toHaveBeenCalledWith(expect.anything(), 48);
  expect(Object.fromEntries(bench.outcomes)).toEqual(Object.fromEntries(expected));
  expect(poolOf(bench).keptTokens).toBe(8 * 64);
});

test("preempted sequences are computed again from cached prefixes, and give the same tokens as alone", async () => {
  const jobs = jobsAlike(4, 10).map((job) => ({ ...job, params: { ...job.params, maxTokens: 90 } }));
  const alone = await outcomesAlone(jobs, running, tokenizer);
  const bench = new CoreBench(paged, tokenizer, { capacityTokens: 320, prefixCacheBytes: PREFIX_BYTES });
  const [first, ...others] = jobs;
  bench.add("job-0", first?.promptIds ?? [], first?.params ?? {});
  for (let step = 0; step < 4; step++) await bench.core.step();
  // They have priority over the first one, which is preempted.
  for (const { id, promptIds, params } of others) bench.add(id, promptIds, params, 1);
  await bench.finish();
  expect(bench.count("sequence:preempted")).toBeGreaterThan(0);
  // Counted at the first admission of a sequence, not at later ones.
  const cached = bench.events.flatMap(({ name, payload }) =>
    name === "sequence:finished" ? [(payload as { cachedTokens: number }).cachedTokens] : [],
  );
  expect(cached).toContain(0);
  expect(cached.reduce((sum, tokens) => sum + tokens, 0)).toBe(bench.core.stats().cachedTokens);
  for (const { id } of jobs) expect(bench.outcomes.get(id)?.tokens).toEqual(alone.get(id)?.tokens);
});

test("random operations keep the accounting right and free all memory (seeds 1 to 3)", async () => {
  for (const seed of [1, 2, 3]) {
    const random = seededRandom(seed);
    const limit = { capacityTokens: 1024, maxNumSeqs: 8, maxNumBatchedSeqs: 4, prefixCacheBytes: 60_000 };
    const bench = new CoreBench(paged, tokenizer, limit);
    const jobs = [...jobsAlike(15, 60), ...randomJobs(15, seed + 100, 200)].map((job, index) => ({
      ...job,
      id: `job-${index}`,
    }));
    let next = 0;
    while (next < jobs.length || bench.core.hasWork) {
      const choice = random();
      const job = jobs[next];
      if (choice < 0.3 && job) {
        bench.add(job.id, job.promptIds, job.params, randomInteger(random, 3));
        next++;
      } else if (choice < 0.36 && next > 0) {
        bench.core.abort(`job-${randomInteger(random, next)}`);
      } else {
        await bench.core.step();
      }
      bench.core.checkIntegrity();
    }
    expect(bench.core.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvUsedTokens: 0 });
    expect(poolOf(bench).keptTokens).toBeGreaterThan(0);
  }
});

test.each([1, 2, 3, 4])(
  "equal, kept, salted and drafted prompts give the same as alone, in any order (seed %i)",
  async (seed) => {
    const random = seededRandom(seed);
    const whole = Array.from({ length: 150 }, () => randomInteger(random, 4096));
    // Whole chunks, whole pages, and neither.
    const jobs = [128, 112, 16, 64, 65, 150].flatMap((length) =>
      [0, 0.8].map((temperature) => ({
        id: `${length} ${temperature}`,
        promptIds: whole.slice(0, length),
        params: { maxTokens: 12, temperature, seed: length },
      })),
    );
    const alone = await outcomesAlone(jobs, running, tokenizer);
    const bench = new CoreBench(paged, tokenizer, {
      capacityTokens: 1024,
      maxNumBatchedSeqs: 4,
      prefixCacheBytes: 60_000,
      drafter: new EngineDrafter(),
    });
    const { core, prefixes, admission } = bench;
    const pins: number[] = [];
    let numPinned = 0;
    const jobOf = new Map<string, (typeof jobs)[number]>();
    while (jobOf.size < 60 || core.hasWork) {
      const choice = random();
      const job = jobs[randomInteger(random, jobs.length)] as (typeof jobs)[number];
      const id = `${jobOf.size}`;
      if (choice < 0.25 && jobOf.size < 60) {
        const cacheSalt = [undefined, "a", "b"][randomInteger(random, 3)];
        const end = Math.floor(job.promptIds.length / 16) * 16;
        // As a prompt is kept: when it is computed, for all salts.
        const keep: SequenceStart["onPrefilled"] = (sequence, slot) => {
          const pin = prefixes.pin(sequence, end, (from, to) => admission.kv.keep(slot, from, to));
          if (pin !== undefined) numPinned = Math.max(numPinned, pins.push(pin));
        };
        const priority = randomInteger(random, 3);
        bench.addWith({ ...job, id }, { cacheSalt, priority, onPrefilled: random() < 0.2 ? keep : undefined });
        jobOf.set(id, job);
      } else if (choice < 0.28) {
        core.abort(`${randomInteger(random, jobOf.size + 1)}`);
      } else if (choice < 0.34 && pins.length > 0) {
        for (const pin of pins.splice(randomInteger(random, pins.length), 1)) prefixes.unpin(pin);
      } else {
        await core.step();
      }
      core.checkIntegrity();
    }
    const finished = [...bench.outcomes].filter(([, { finishReason }]) => finishReason !== undefined);
    expect(finished.length).toBeGreaterThan(40);
    expect(finished).toEqual(finished.map(([id]) => [id, alone.get(jobOf.get(id)?.id ?? "")]));
    expect(numPinned).toBeGreaterThan(1);
    const { cachedTokens, acceptedDraftTokens } = core.stats();
    expect(Math.min(cachedTokens, acceptedDraftTokens)).toBeGreaterThan(0);
    for (const pin of pins) prefixes.unpin(pin);
    expect(prefixes.pinnableBytes).toBe(60_000);
    expect(core.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvUsedTokens: 0 });
  },
);

test("passages with the same beginning score the same", async () => {
  const random = seededRandom(4);
  const tokens = (length: number): number[] => Array.from({ length }, () => randomInteger(random, 4096));
  const [trunk, other] = [tokens(100), tokens(40)];
  const passages = [7, 20, 33].map((length) => ({
    tokenIds: Int32Array.from([...trunk, ...tokens(length)]),
    firstTarget: 100,
  }));
  const groups = [passages, [{ tokenIds: Int32Array.from(other), firstTarget: 1 }]];
  const expected = await scorePassages(running.runner, running.router, groups);
  expect(await scorePassages(paged.runner, paged.router, groups)).toEqual(expected);
});
