// Prompts with one beginning that arrive together: it is computed once, nobody waits for what is not being read, and the
// bits stay the same.

import { KV_PAGE_TOKENS } from "@readme-moe/kernel";
import type { Tokenizer } from "@readme-moe/model";
import { afterAll, beforeAll, expect, test } from "vitest";
import { CoreBench, type Job, type Limits, outcomesAlone, randomJobs } from "../support/core-bench.ts";
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

const open = (more: Partial<Limits> = {}): CoreBench =>
  new CoreBench(running, tokenizer, { capacityTokens: 4096, prefixCacheBytes: 1 << 20, maxNumSeqs: 16, ...more });

/** Jobs that begin with the same tokens, three chunks and a bit. */
function jobsOfTrunk(count: number, seed: number): readonly Job[] {
  const [trunk] = randomJobs(1, seed).map(() =>
    Array.from({ length: 3 * CHUNK + 5 }, (_, at) => 1 + ((at * seed) % 97)),
  );
  return randomJobs(count, seed, 20).map((job) => ({ ...job, promptIds: [...(trunk ?? []), ...job.promptIds] }));
}

/** Runs all, and lists the sequences that have waited for another's chunks. */
async function everFollowing({ core, admission }: CoreBench): Promise<readonly string[]> {
  const ids = new Set<string>();
  while (core.hasWork) {
    await core.step();
    for (const { id } of admission.followers) ids.add(id);
  }
  return [...ids];
}

test("the beginning is computed once, with the bits of each prompt alone", async () => {
  const jobs = jobsOfTrunk(5, 3);
  const bench = open();
  for (const job of jobs) bench.addWith(job, {});
  expect(await everFollowing(bench)).toEqual(jobs.slice(1).map(({ id }) => id));
  expect(bench.outcomes).toEqual(await outcomesAlone(jobs, running, tokenizer));
  expect(jobs.map(({ id }) => bench.ending(id).cachedTokens)).toEqual([0, ...Array<number>(4).fill(3 * CHUNK)]);
});

test("without a prefix cache nobody waits", async () => {
  const jobs = jobsOfTrunk(3, 4);
  const bench = open({ prefixCacheBytes: 0 });
  for (const job of jobs) bench.addWith(job, {});
  expect(await everFollowing(bench)).toEqual([]);
});

test("another client, a salt and a higher priority do not wait", async () => {
  const [first, ...others] = jobsOfTrunk(4, 5);
  const bench = open();
  if (first) bench.addWith(first, {});
  for (const [index, more] of [{ client: "other" }, { cacheSalt: "other" }, { priority: 1 }].entries()) {
    const job = others[index];
    if (job) bench.addWith(job, more);
  }
  expect(await everFollowing(bench)).toEqual([]);
  expect(bench.count("sequence:finished")).toBe(4);
});

test("a prompt goes on where the one that it waited for was aborted", async () => {
  const [first, second] = jobsOfTrunk(2, 6);
  if (!first || !second) throw new Error("Expected jobs");
  const bench = open({ maxNumBatchedTokens: CHUNK });
  bench.addWith(first, {});
  bench.addWith(second, {});
  for (let step = 0; step < 2; step++) await bench.core.step();
  expect([...bench.admission.running.keys()]).toEqual([first.id]);
  expect(bench.readings.some(({ id }) => id === second.id)).toBe(true);
  bench.core.abort(first.id);
  await bench.finish();
  expect(bench.ending(second.id).cachedTokens).toBe(2 * CHUNK);
  expect(bench.outcomes.get(second.id)).toEqual((await outcomesAlone([second], running, tokenizer)).get(second.id));
});

test("prompts that share nothing are admitted in their order", async () => {
  const shared = jobsOfTrunk(6, 7).map((job, index) => ({ ...job, id: `shared-${index}` }));
  const others = randomJobs(6, 8).map((job, index) => ({ ...job, id: `other-${index}` }));
  const bench = open({ maxNumSeqs: 2, maxNumBatchedTokens: CHUNK });
  for (const [index, job] of shared.entries()) {
    bench.addWith(job, {});
    const other = others[index];
    if (other) bench.addWith(other, {});
  }
  const order = new Set<string>();
  while (bench.core.hasWork) {
    await bench.core.step();
    for (const id of bench.admission.running.keys()) order.add(id);
  }
  const started = [...order].filter((id) => id.startsWith("other"));
  expect(started).toEqual(others.map(({ id }) => id).filter((id) => order.has(id)));
  expect(bench.count("sequence:finished")).toBe(12);
});

test.each([1, 2, 3, 4])(
  "all end with their bits among aborts, clients, salts and priorities, and none waits forever (seed %i)",
  async (seed) => {
    const random = seededRandom(seed);
    const pick = <Item>(items: readonly Item[]): Item => items[randomInteger(random, items.length)] as Item;
    const pool = [...jobsOfTrunk(4, seed), ...jobsOfTrunk(4, seed + 10), ...randomJobs(4, seed)].map((job, index) => ({
      ...job,
      id: `pool-${index}`,
      promptIds: job.promptIds.slice(0, pick([100, 150, 220])),
    }));
    const alone = await outcomesAlone(pool, running, tokenizer);
    // Some prompts are preempted.
    const bench = open({ capacityTokens: 640, maxNumSeqs: 5, maxNumBatchedTokens: pick([CHUNK, 4 * CHUNK]) });
    const added = new Map<string, string>();
    let numWaits = 0;
    for (let left = 60; left > 0 || bench.core.hasWork;) {
      while (left > 0 && random() < 0.4) {
        const job = pick(pool);
        const id = `job-${left--}`;
        added.set(id, job.id);
        const owner = { client: pick([undefined, "a"]), cacheSalt: pick([undefined, undefined, "s"]) };
        bench.addWith({ ...job, id }, { ...owner, priority: pick([0, 0, 1]) });
      }
      if (random() < 0.1) bench.core.abort(pick([...added.keys(), "none"]));
      await bench.core.step();
      bench.core.checkIntegrity();
      for (const one of bench.admission.followers) {
        numWaits++;
        expect(bench.admission.waiting).toContain(one);
        expect(one.slot).toBeUndefined();
      }
    }
    expect(bench.count("sequence:finished")).toBe(60);
    for (const [id, of] of added) {
      if (bench.ending(id).reason !== "abort") expect([id, bench.outcomes.get(id)]).toEqual([id, alone.get(of)]);
    }
    expect(bench.core.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvUsedTokens: 0 });
    expect(numWaits).toBeGreaterThan(0);
  },
);

test.each([undefined, "a salt"])(
  "at most the tokens of a page of a chat run twice that is only appended to (salt %s)",
  async (cacheSalt) => {
    const random = seededRandom(6);
    const ids = (length: number): number[] => Array.from({ length }, () => 1 + randomInteger(random, 4000));
    const bench = open();
    let chat = ids(9);
    let computed = 0;
    for (let turn = 0; turn < 30; turn++) {
      const job = { id: `turn ${turn}`, promptIds: chat, params: { maxTokens: 4, temperature: 0 } };
      bench.addWith(job, { cacheSalt });
      await bench.finish();
      bench.core.checkIntegrity();
      const known = KV_PAGE_TOKENS * Math.floor(computed / KV_PAGE_TOKENS);
      expect([turn, bench.ending(job.id).cachedTokens]).toEqual([turn, known]);
      if (turn % 7 === 3) {
        const other = { ...job, id: `other ${turn}` };
        bench.addWith(other, { cacheSalt: `another ${turn}` });
        await bench.finish();
        expect(bench.ending(other.id).cachedTokens).toBe(0);
        expect(bench.outcomes.get(other.id)).toEqual(bench.outcomes.get(job.id));
        expect(bench.outcomes.get(job.id)).toEqual((await outcomesAlone([job], running, tokenizer)).get(job.id));
      }
      const answer = bench.outcomes.get(job.id)?.tokens ?? [];
      computed = chat.length + answer.length - 1;
      chat = [...chat, ...answer, ...ids(3)];
    }
  },
);
