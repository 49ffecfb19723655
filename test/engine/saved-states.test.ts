// Beginnings of prompts on disk, of models with recurrences: an engine goes on where another one has kept a state, with
// the same bits, among files that are cut, changed or gone.

import { readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeEngine } from "@readme-moe/engine";
import type { Tokenizer } from "@readme-moe/model";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { SavedPrompts } from "../../packages/engine/src/saved-prompts.ts";
import { completeAll } from "../support/complete.ts";
import { CoreBench, type Job, outcomesAlone } from "../support/core-bench.ts";
import { damageOneOf, withByte } from "../support/damage.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { FIXTURE_VOCABULARY, readableFixture } from "../support/readable-fixture.ts";
import { runningFixture } from "../support/running-tiny-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const MODELS = ["hybrids/lfm2", "hybrids/qwen3-5", "hybrids/granite4-h"];

const randomIds = (random: () => number, length: number): number[] =>
  Array.from({ length }, () => 3 + randomInteger(random, FIXTURE_VOCABULARY - 3));

/** Counts the tokens that two prompts begin with. */
function commonTokens(a: readonly number[], b: readonly number[]): number {
  const differs = b.findIndex((id, at) => a[at] !== id);
  return differs < 0 ? b.length : differs;
}

const filesIn = async (folder: string): Promise<readonly string[]> =>
  (await readdir(folder).catch(() => [])).filter((name) => name.endsWith(".kv"));

/** Runs the job of a prompt. @returns its answer, and how many of its tokens were known */
async function run(bench: CoreBench, id: string, promptIds: readonly number[], maxTokens: number) {
  bench.addWith({ id, promptIds, params: { maxTokens, temperature: 0 } }, {});
  await bench.finish();
  return { ids: bench.outcomes.get(id)?.tokens ?? [], ...bench.ending(id) };
}

describe.each(MODELS)("%s", (name) => {
  let running: Awaited<ReturnType<typeof runningFixture>>;
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    running = await runningFixture(name);
    ({ tokenizer } = running);
  });
  afterAll(() => running[Symbol.asyncDispose]());

  function openOn(folder: string, capacityTokens = 1024, files = new SavedPrompts(folder, 1e9)): CoreBench {
    let ms = 0;
    const options = { capacityTokens, prefixCacheBytes: 1 << 20, now: () => ms++, disk: { files } };
    return new CoreBench(running, tokenizer, options);
  }

  async function expectSame(bench: CoreBench, job: Job): Promise<void> {
    const alone = await outcomesAlone([job], running, tokenizer);
    expect([job.id, bench.outcomes.get(job.id)]).toEqual([job.id, alone.get(job.id)]);
  }

  test("an engine that is restarted runs no token of a chat twice that is only appended to", async () => {
    const folder = await temporaryFolder();
    const random = seededRandom(3);
    let chat = randomIds(random, 101);
    let computed = 0;
    let diskTokens = 0;
    // Ends lie behind, in and in front of the first tokens of chunks.
    for (let turn = 0; turn < 12; turn++) {
      const bench = openOn(folder);
      const { ids, cachedTokens } = await run(bench, "turn", chat, 5 + (turn % 3));
      expect([turn, cachedTokens]).toEqual([turn, computed]);
      diskTokens += bench.core.stats().diskTokens ?? 0;
      const params = { maxTokens: 5 + (turn % 3), temperature: 0 };
      await expectSame(bench, { id: "turn", promptIds: chat, params });
      await bench.saved?.close();
      computed = chat.length + ids.length - 1;
      chat = [...chat, ...ids, ...randomIds(random, 1 + ((5 * turn) % 9))];
    }
    expect(diskTokens).toBeGreaterThan(11 * 101);
  });

  test("goes on at the last state that prompts share, and nowhere without one", async () => {
    const folder = await temporaryFolder();
    const random = seededRandom(4);
    const begin = randomIds(random, 200);
    const first = openOn(folder);
    await run(first, "first", begin, 4);
    await first.saved?.close();
    const states = [];
    for (const common of [200, 170, 60]) {
      const bench = openOn(folder);
      const prompt = [...begin.slice(0, common), ...randomIds(random, 230 - common)];
      const { cachedTokens } = await run(bench, "next", prompt, 4);
      await expectSame(bench, { id: "next", promptIds: prompt, params: { maxTokens: 4, temperature: 0 } });
      states.push(cachedTokens);
      const { sharedTokens } = bench.prefixes;
      expect(cachedTokens).toBe(Math.floor(common / sharedTokens) * sharedTokens);
    }
    expect(states.at(-1)).toBe(0);
  });

  test("refuses files that are damaged, and removes them", async () => {
    const random = seededRandom(5);
    const begin = randomIds(random, 150);
    for (const damage of ["end", "chunk"] as const) {
      const folder = await temporaryFolder();
      const first = openOn(folder);
      const { ids } = await run(first, "first", begin, 6);
      await first.saved?.close();
      const prompt = [...begin, ...ids, 5];
      const stateBytes = first.admission.kv.states.stateBytes;
      const names = await filesIn(folder);
      const sizes = await Promise.all(names.map(async (one) => (await stat(join(folder, one))).size));
      expect(sizes.some((size) => size > stateBytes)).toBe(true);
      for (const one of names) {
        const content = await readFile(join(folder, one));
        const isEnd = content.includes(`"stateBytes":${stateBytes}`);
        if (isEnd === (damage === "end")) await writeFile(join(folder, one), withByte(content, content.length - 60, 1));
      }
      const bench = openOn(folder);
      const { cachedTokens } = await run(bench, "next", prompt, 5);
      expect(cachedTokens).toBe(0);
      await expectSame(bench, { id: "next", promptIds: prompt, params: { maxTokens: 5, temperature: 0 } });
      expect((await filesIn(folder)).length).toBe(names.length - 1);
    }
  });

  test("counts states in the bytes of the folder", async () => {
    const folder = await temporaryFolder();
    const random = seededRandom(6);
    const bench = openOn(folder);
    const { states, bytesPerToken } = bench.admission.kv;
    const mostBytes = 3 * states.stateBytes + 400 * bytesPerToken + 4096;
    for (let turn = 0; turn < 6; turn++) {
      const other = openOn(folder, 1024, new SavedPrompts(folder, mostBytes));
      await run(other, "job", randomIds(random, 110), 3);
      await other.saved?.close();
      const sizes = await Promise.all((await filesIn(folder)).map(async (one) => (await stat(join(folder, one))).size));
      expect(sizes.reduce((sum, size) => sum + size, 0)).toBeLessThanOrEqual(mostBytes);
    }
  });

  test.each([1, 2])(
    "two engines give the same bits among restarts, aborts and damaged files (seed %i)",
    async (seed) => {
      const random = seededRandom(seed);
      const pick = <Item>(items: readonly Item[]): Item => items[randomInteger(random, items.length)] as Item;
      const folder = await temporaryFolder();
      const trunks = [randomIds(random, 150), randomIds(random, 150)];
      const chats = Array.from({ length: 10 }, (_, index) => [
        ...trunks[index % 2]!.slice(0, pick([64, 100, 128, 150])),
        ...randomIds(random, 50),
      ]);
      const engines = [openOn(folder, 512), openOn(folder, 512)];
      const asked: { readonly salt: string | undefined; readonly ids: readonly number[] }[] = [];
      const seen = { disk: 0, damaged: 0, restarted: 0, aborted: 0 };
      for (let round = 0; round < 60; round++) {
        const place = randomInteger(random, 2);
        const bench = engines[place]!;
        const action = randomInteger(random, 10);
        if (action < 6) {
          const salt = pick([undefined, undefined, "a"]);
          const jobs = Array.from({ length: 1 + randomInteger(random, 2) }, (_, choice) => {
            const which = randomInteger(random, chats.length);
            const params = { maxTokens: 1 + randomInteger(random, 12), temperature: 0 };
            return { id: `${round}/${choice}`, promptIds: chats[which]!, params, which };
          });
          const before = bench.core.stats().diskTokens ?? 0;
          for (const job of jobs) bench.addWith(job, { cacheSalt: salt });
          const [cut] = random() < 0.3 ? jobs : [];
          const numSteps = cut ? randomInteger(random, 4) : 0;
          for (let step = 0; step < numSteps; step++) await bench.core.step();
          if (cut) bench.core.abort(cut.id);
          await bench.finish();
          const own = jobs.map(({ id, promptIds }) => [...promptIds, ...(bench.outcomes.get(id)?.tokens ?? [])]);
          asked.push(...own.map((ids) => ({ salt, ids })));
          for (const [index, job] of jobs.entries()) {
            const { reason, cachedTokens } = bench.ending(job.id);
            if (reason === "abort") seen.aborted++;
            else await expectSame(bench, job);
            const others = asked.filter(({ salt: other, ids }) => other === salt && ids !== own[index]);
            const shared = others.map(({ ids }) => commonTokens(ids, job.promptIds));
            expect(cachedTokens).toBeLessThanOrEqual(Math.max(0, ...shared));
            // Some chats go on.
            if (reason !== "abort" && own[index]!.length < 215)
              chats[job.which] = [...own[index]!, ...randomIds(random, 3)];
          }
          seen.disk += (bench.core.stats().diskTokens ?? 0) - before;
        } else if (action === 6) {
          // A crash saves nothing more.
          if (random() < 0.7) await bench.saved?.close();
          engines[place] = openOn(folder, 512);
          seen.restarted++;
        } else if (action === 7) await bench.saved?.saveAll(() => random() < 0.1);
        else {
          const names = await filesIn(folder);
          if (names.length === 0) continue;
          await damageOneOf(
            names.map((one) => join(folder, one)),
            random,
          );
          seen.damaged++;
        }
      }
      expect(
        Object.values(seen).every((count) => count > 0),
        JSON.stringify(seen),
      ).toBe(true);
      for (const bench of engines) await bench.saved?.close();
    },
  );

  test("an engine keeps beginnings on disk, and answers the same without", async () => {
    const folder = await temporaryFolder();
    const path = await readableFixture(name, folder);
    const shared = { isolation: "thread", threads: 1, cacheFolder: folder } as const;
    const prompt = randomIds(seededRandom(7), 300);
    const params = { maxTokens: 8, temperature: 0, logprobs: 2 };
    const answers = [];
    for (const prefixDiskBytes of [0, 1e8, 1e8]) {
      await using engine = await ReadMeEngine.open(path, { ...shared, prefixDiskBytes });
      expect(engine.info.memory?.prefixDiskBytes ?? 0).toBe(prefixDiskBytes);
      answers.push((await completeAll(engine, { prompt, params })).choices);
    }
    expect(answers[1]).toEqual(answers[0]);
    expect(answers[2]).toEqual(answers[0]);
    expect((await filesIn(join(folder, "prefixes"))).length).toBeGreaterThan(2);
  });
});
