// Beginnings of prompts on disk: what other engines find there, with the same bits, among files that are cut, changed or
// gone; and what is kept apart.

import { readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { DEFAULT_COST_MODEL } from "@readme-moe/core";
import { KV_PAGE_TOKENS } from "@readme-moe/kernel";
import type { Tokenizer } from "@readme-moe/model";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { PrefixNames } from "../../packages/engine/src/prefix-names.ts";
import { isReadFaster, refinedSpeed } from "../../packages/engine/src/saved-prefixes.ts";
import { SavedPrompts } from "../../packages/engine/src/saved-prompts.ts";
import { CoreBench, type Job, type Limits, outcomesAlone, randomJobs } from "../support/core-bench.ts";
import { damageOneOf } from "../support/damage.ts";
import * as fc from "../support/fast-check.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { runningTinyModel } from "../support/running-tiny-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const CHUNK = 64;

let running: Awaited<ReturnType<typeof runningTinyModel>>;
let tokenizer: Tokenizer;
beforeAll(async () => {
  running = await runningTinyModel();
  ({ tokenizer } = running);
});
afterAll(() => running[Symbol.asyncDispose]());

/** A clock that goes on by 1 ms whenever it is read. */
function ticking(): () => number {
  let ms = 0;
  return () => ms++;
}

/** Opens an engine beside a folder. */
function openOn(folder: string, more: Partial<Limits> = {}, scope = ""): CoreBench {
  const disk = { files: new SavedPrompts(folder, 1e9), scope };
  const sizes = { capacityTokens: 1024, prefixCacheBytes: 1 << 20 };
  return new CoreBench(running, tokenizer, { ...sizes, now: ticking(), disk, ...more });
}

async function run(bench: CoreBench, jobs: readonly Job[], cacheSalt?: string): Promise<void> {
  for (const job of jobs) bench.addWith(job, { cacheSalt });
  await bench.finish();
}

/** Tokens of a prompt that may come from a cache: whole chunks, without the last token. */
const wholeTokens = (length: number): number => Math.floor((length - 1) / CHUNK) * CHUNK;
const cachedOf = (bench: CoreBench, jobs: readonly Job[]): readonly number[] =>
  jobs.map(({ id }) => bench.ending(id).cachedTokens);
const sumOf = (numbers: readonly number[]): number => numbers.reduce((sum, one) => sum + one, 0);

/** Jobs whose prompts are worth files. */
const longJobs = (count: number, seed: number): readonly Job[] =>
  randomJobs(count, seed, 220).map((job, index) => ({
    ...job,
    promptIds: [...job.promptIds, ...Array<number>(220).fill(1 + index)].slice(0, 130 + 7 * index),
  }));

test("another engine reads what one has computed, and gives the same bits", async () => {
  const folder = await temporaryFolder();
  const jobs = longJobs(8, 5);
  const alone = await outcomesAlone(jobs, running, tokenizer);
  for (const isFirst of [true, false]) {
    const bench = openOn(folder);
    await run(bench, jobs);
    expect(bench.outcomes).toEqual(alone);
    const cached = jobs.map(({ promptIds }) => (isFirst ? 0 : wholeTokens(promptIds.length)));
    expect(cachedOf(bench, jobs)).toEqual(cached);
    expect(bench.core.stats()).toMatchObject({ diskTokens: sumOf(cached), cachedTokens: sumOf(cached) });
    await bench.saved?.close();
  }
  const names = await readdir(folder);
  const computed = jobs.map(({ id, promptIds }) => promptIds.length + (alone.get(id)?.tokens.length ?? 0) - 1);
  expect(names).toHaveLength(sumOf(computed.map((tokens) => Math.floor(tokens / CHUNK))));
  if (process.platform === "win32") return;
  for (const name of names) expect((await stat(join(folder, name))).mode & 0o777).toBe(0o600);
});

test("what was evicted from memory is read again", async () => {
  const folder = await temporaryFolder();
  const [first, ...others] = longJobs(6, 6).map((job) => ({ ...job, promptIds: job.promptIds.slice(0, 130) }));
  if (!first) throw new Error("Expected a job");
  const bench = openOn(folder, { capacityTokens: 192, prefixCacheBytes: 2 * CHUNK * 1024 });
  for (const job of [first, ...others]) await run(bench, [job]);
  while (bench.prefixes.evict());
  await bench.saved?.close();
  const again = { ...first, id: "again" };
  await run(bench, [again]);
  expect(bench.ending("again").cachedTokens).toBe(wholeTokens(130));
  expect(bench.core.stats().diskTokens).toBe(wholeTokens(130));
  expect(bench.outcomes.get("again")).toEqual(bench.outcomes.get(first.id));
});

test("prompts of another salt or scope find nothing, and short ones are not saved", async () => {
  const folder = await temporaryFolder();
  const [job, other] = longJobs(2, 7);
  if (!job || !other) throw new Error("Expected jobs");
  const short = { ...other, id: "short", promptIds: other.promptIds.slice(0, 99) };
  const found = async (scope: string, salt: string | undefined, asked = job): Promise<number> => {
    const bench = openOn(folder, {}, scope);
    await run(bench, [asked], salt);
    return bench.ending(asked.id).cachedTokens;
  };
  const first = openOn(folder, {}, "server");
  await run(first, [job, short], "a");
  await first.saved?.close();
  const whole = wholeTokens(job.promptIds.length);
  for (const [scope, salt, tokens] of [
    ["server", "a", whole],
    ["server", "b", 0],
    ["server", undefined, 0],
    ["other", "a", 0],
    ["", '["server","a"]', 0],
  ] as const) {
    expect([scope, salt, await found(scope, salt)]).toEqual([scope, salt, tokens]);
  }
  expect(await found("server", "a", short)).toBe(0);
});

test("others get a token in each step while chunks are read", async () => {
  const folder = await temporaryFolder();
  const [job, other] = longJobs(12, 8).slice(-2);
  if (!job || !other) throw new Error("Expected jobs");
  const first = openOn(folder);
  await run(first, [job]);
  await first.saved?.close();
  const bench = openOn(folder);
  bench.add("decoding", other.promptIds, { maxTokens: 40, temperature: 0 });
  const tokens = (): number => bench.outcomes.get("decoding")?.tokens.length ?? 0;
  while (tokens() === 0) await bench.core.step();
  bench.addWith(job, {});
  let numSteps = 0;
  for (let before = tokens(); bench.ending(job.id).reason === "none"; before = tokens()) {
    await bench.core.step();
    if (bench.ending("decoding").reason === "none") expect(tokens()).toBeGreaterThan(before);
    numSteps++;
  }
  expect(bench.ending(job.id).cachedTokens).toBe(wholeTokens(job.promptIds.length));
  expect(numSteps).toBeGreaterThan(3);
  await bench.finish();
});

test("a folder that cannot be written costs no answer, and is told once", async () => {
  const file = join(await temporaryFolder(), "file");
  await writeFile(file, "");
  const jobs = longJobs(4, 9);
  const failures: string[] = [];
  const onSaveFailed = (reason: string): void => void failures.push(reason);
  const disk = { files: new SavedPrompts(join(file, "below"), 1e9), onSaveFailed };
  const bench = openOn("", { capacityTokens: 320, prefixCacheBytes: CHUNK * 1024, disk });
  for (const job of jobs) await run(bench, [job]);
  await bench.saved?.close();
  expect(bench.outcomes).toEqual(await outcomesAlone(jobs, running, tokenizer));
  expect(failures).toHaveLength(1);
  expect(failures[0]).toContain(file);
});

test.each([1, 2, 3])(
  "two engines give the same bits among restarts, aborts and damaged files, and share by salt only (seed %i)",
  async (seed) => {
    const random = seededRandom(seed);
    const pick = <Item>(items: readonly Item[]): Item => items[randomInteger(random, items.length)] as Item;
    const folder = await temporaryFolder();
    const trunks = longJobs(3, seed).map(({ promptIds }) => promptIds);
    const pool = randomJobs(12, seed).map((job, index) => {
      const trunk = (trunks[index % 3] ?? []).slice(0, pick([64, 100, 128]));
      return { ...job, promptIds: [...trunk, ...job.promptIds].slice(0, 220) };
    });
    const alone = await outcomesAlone(pool, running, tokenizer);
    const opened: CoreBench[] = [];
    const open = (): CoreBench => {
      const bench = openOn(folder, { capacityTokens: 320, prefixCacheBytes: CHUNK * 1024 });
      opened.push(bench);
      return bench;
    };
    const engines = [open(), open()];
    const asked: { readonly id: string; readonly salt: string | undefined; readonly ids: readonly number[] }[] = [];
    const seen = { disk: 0, damaged: 0, restarted: 0, aborted: 0 };
    for (let round = 0; round < 100; round++) {
      const place = randomInteger(random, 2);
      const bench = engines[place] as CoreBench;
      const action = randomInteger(random, 10);
      if (action < 6) {
        const salt = pick([undefined, "a", "b"]);
        const jobs = Array.from({ length: 1 + randomInteger(random, 2) }, (_, choice) => {
          const job = pick(pool);
          return { ...job, id: `${round}/${choice}`, of: job.id };
        });
        const before = bench.core.stats().diskTokens ?? 0;
        for (const job of jobs) bench.addWith(job, { cacheSalt: salt });
        const [cut] = random() < 0.3 ? jobs : [];
        const numSteps = cut ? randomInteger(random, 4) : 0;
        for (let step = 0; step < numSteps; step++) await bench.core.step();
        if (cut) bench.core.abort(cut.id);
        await bench.finish();
        for (const { id, promptIds } of jobs) {
          asked.push({ id, salt, ids: [...promptIds, ...(bench.outcomes.get(id)?.tokens ?? [])] });
        }
        for (const { id, of, promptIds } of jobs) {
          const { reason, cachedTokens } = bench.ending(id);
          if (reason === "abort") {
            seen.aborted++;
            continue;
          }
          expect([id, bench.outcomes.get(id)]).toEqual([id, alone.get(of)]);
          const others = asked.filter((one) => one.salt === salt && one.id !== id);
          const shared = others.map(({ ids }) => commonTokens(ids, promptIds));
          expect(cachedTokens).toBeLessThanOrEqual(Math.max(0, ...shared));
        }
        seen.disk += (bench.core.stats().diskTokens ?? 0) - before;
      } else if (action === 6) {
        // A crash saves nothing more.
        if (random() < 0.5) await bench.saved?.close();
        engines[place] = open();
        seen.restarted++;
      } else if (action === 7) await bench.saved?.saveAll(() => random() < 0.2);
      else {
        // Files that are being written come and go.
        const names = (await readdir(folder).catch(() => [])).filter((name) => name.endsWith(".kv"));
        if (names.length === 0) continue;
        const paths = names.map((name) => join(folder, name));
        if (randomInteger(random, 5) > 0) await damageOneOf(paths, random);
        else {
          const content = await readFile(pick(paths));
          await writeFile(join(folder, `.readme-moe-${round}.tmp`), content.subarray(0, 100));
        }
        seen.damaged++;
      }
    }
    expect(
      Object.values(seen).every((count) => count > 0),
      JSON.stringify(seen),
    ).toBe(true);
    for (const bench of opened) await bench.saved?.close();
  },
);

/** Counts the tokens of whole pages that two prompts begin with. */
function commonTokens(a: readonly number[], b: readonly number[]): number {
  const differs = b.findIndex((id, at) => a[at] !== id);
  return Math.floor((differs < 0 ? b.length : differs) / KV_PAGE_TOKENS) * KV_PAGE_TOKENS;
}

function namesOf(tokenIds: readonly number[], readers: readonly [string, string | undefined]): PrefixNames {
  const identity = { model: ["weights"], experts: new Map([[0, "expert"]]) };
  return new PrefixNames(identity, readers, { tokenIds, experts: tokenIds.map(() => 0) }, 2);
}

/** Names of all chunks, then of all ends. */
function allNames(...prompt: Parameters<typeof namesOf>): readonly (readonly string[])[] {
  const names = namesOf(...prompt);
  const ends = prompt[0].map((_, at) => names.end(at + 1));
  const chunks = prompt[0].map((_, at) => names.chunk(at));
  return [chunks, ends].map((all) => all.filter((name) => name !== undefined));
}

describe("the names of files", () => {
  test("are equal for equal beginnings of the same readers, and for no others", () => {
    const tokens = fc.array(fc.integer({ min: 0, max: 1 }), { maxLength: 12, size: "max" });
    const readers = fc.tuple(fc.constantFrom("", "s"), fc.constantFrom(undefined, "", "s"));
    fc.assert(
      fc.property(tokens, tokens, readers, readers, (a, b, readersA, readersB) => {
        const [first, second] = [allNames(a, readersA), allNames(b, readersB)];
        expect(first.map(({ length }) => length)).toEqual([Math.floor(a.length / 2), a.length]);
        expect(new Set(first.flat()).size).toBe(first.flat().length);
        const isShared = JSON.stringify(readersA) === JSON.stringify(readersB);
        for (const [index, key] of first.flat().entries()) {
          const end = index < first[0]!.length ? 2 * (index + 1) : 1 + index - first[0]!.length;
          const isEqual = isShared && end <= b.length && a.slice(0, end).join() === b.slice(0, end).join();
          expect(second.flat().includes(key)).toBe(isEqual);
        }
      }),
    );
  });

  test("find the longest end whose chunks are all there", () => {
    const tokens = fc.array(fc.integer({ min: 0, max: 1 }), { minLength: 1, maxLength: 9, size: "max" });
    fc.assert(
      fc.property(tokens, fc.array(tokens, { maxLength: 6 }), fc.nat(99), (prompt, others, left) => {
        const readers = ["", undefined] as const;
        const all = [prompt, ...others].map((one) => allNames(one, readers));
        const keys = new Set(all.flat(2).filter((_, at) => (at * 37 + left) % 5 > 0));
        const [chunks = [], ends = []] = all[0] ?? [];
        const isSaved = (key: string, at: number): boolean =>
          keys.has(key) && chunks.slice(0, Math.floor((at + 1) / 2)).every((chunk) => keys.has(chunk));
        const found = namesOf(prompt, readers).findSaved(Array.from(keys), prompt.length - 1);
        const end = 1 + ends.slice(0, -1).findLastIndex(isSaved);
        expect(found).toEqual(end > 0 ? { end, key: ends[end - 1] } : undefined);
      }),
    );
  });

  test("are none where an expert is not known", () => {
    const identity = { model: [], experts: new Map([[0, "expert"]]) };
    const prompt = { tokenIds: [1, 2, 3, 4], experts: [0, 0, 0, 1] };
    const names = new PrefixNames(identity, ["", undefined], prompt, 2);
    const known = [0, 1, 2].map((index) => names.chunk(index) !== undefined);
    expect(known).toEqual([true, false, false]);
    expect([3, 4, 5].map((end) => names.end(end) !== undefined)).toEqual([true, false, false]);
  });
});

describe("the choice between reading and computing", () => {
  test("reads what a disk gives sooner", () => {
    const chunk = { tokens: 128, bytes: 3_600_000 };
    // 40 ms are computed.
    expect(isReadFaster({ ...chunk, bytesPerMs: 100_000 }, DEFAULT_COST_MODEL)).toBe(true);
    expect(isReadFaster({ ...chunk, bytesPerMs: 80_000 }, DEFAULT_COST_MODEL)).toBe(false);
  });

  test("learns the speed of the disk", () => {
    let speed = 100_000;
    for (let count = 0; count < 30; count++) speed = refinedSpeed(speed, 1_000_000, 100);
    expect(speed).toBeGreaterThan(10_000);
    expect(speed).toBeLessThan(10_200);
    expect(refinedSpeed(1, 1000, 0)).toBeLessThan(Infinity);
  });
});
