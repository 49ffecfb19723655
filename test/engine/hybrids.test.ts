// Models with recurrences, whose sequences have a state of fixed size: nothing runs twice, and no bit depends on where a
// state came from.

import type { GenerateRequest } from "@readme-moe/core";
import { type EngineOptions, ReadMeEngine } from "@readme-moe/engine";
import { describe, expect, test } from "vitest";
import { completeAll, type Completed } from "../support/complete.ts";
import { fixtureNames } from "../support/fixtures.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { FIXTURE_VOCABULARY, readableFixture } from "../support/readable-fixture.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

async function openFixture(name: string, options: EngineOptions = {}): Promise<ReadMeEngine> {
  return ReadMeEngine.open(await readableFixture(name, await temporaryFolder()), {
    isolation: "thread",
    threads: 1,
    maxNumSeqs: 4,
    cacheFolder: await temporaryFolder(),
    ...options,
  });
}

function randomIds(random: () => number, length: number): number[] {
  return Array.from({ length }, () => 3 + randomInteger(random, FIXTURE_VOCABULARY - 3));
}

/** Generates from a prompt, whole. */
async function answer(engine: ReadMeEngine, prompt: readonly number[], maxTokens: number, seed?: number) {
  const params = {
    maxTokens,
    ignoreEos: true,
    ...(seed === undefined ? { temperature: 0 } : { temperature: 1, seed }),
  };
  const { choices, usage } = await completeAll(engine, { prompt, params });
  return { ids: choices[0]?.ids ?? [], cachedTokens: usage?.cachedTokens ?? -1, choices };
}

describe.each(fixtureNames("hybrids"))("%s", (name) => {
  test("runs no token of a chat twice that is only appended to", async () => {
    await using engine = await openFixture(name);
    await using fresh = await openFixture(name, { prefixCacheBytes: 0 });
    const random = seededRandom(7);
    let chat = randomIds(random, 9);
    let computed = 0;
    for (let turn = 0; turn < 30; turn++) {
      const { ids, cachedTokens } = await answer(engine, chat, 5);
      expect([turn, cachedTokens]).toEqual([turn, computed]);
      if (turn % 7 === 3) expect((await answer(fresh, chat, 5)).ids).toEqual(ids);
      // The last token of an answer has not run.
      computed = chat.length + ids.length - 1;
      chat = [...chat, ...ids, ...randomIds(random, 4)];
    }
  });

  test("goes on from every end that it knows, in two branches and behind a changed message", async () => {
    await using engine = await openFixture(name);
    await using fresh = await openFixture(name, { prefixCacheBytes: 0 });
    const random = seededRandom(8);
    const begin = randomIds(random, 150);
    const first = await answer(engine, begin, 6);
    const common = [...begin, ...first.ids];
    for (const length of [3, 40, 3]) {
      const branch = [...common, ...randomIds(random, length)];
      const { ids, cachedTokens } = await answer(engine, branch, 6);
      expect(cachedTokens).toBe(common.length - 1);
      expect((await answer(fresh, branch, 6)).ids).toEqual(ids);
      const again = await answer(engine, branch, 6, 5);
      expect(again.cachedTokens).toBeGreaterThanOrEqual(common.length - 1);
      expect((await answer(fresh, branch, 6, 5)).ids).toEqual(again.ids);
    }
  });

  test("goes on for requests of the same salt alone", async () => {
    await using engine = await openFixture(name, { prefixCacheBytes: 1 << 20 });
    const prompt = randomIds(seededRandom(12), 30);
    const salts = [undefined, "a", "b", "a", undefined];
    const cached = [];
    for (const cacheSalt of salts) {
      const request = { prompt, cacheSalt, params: { maxTokens: 1, temperature: 0 } };
      cached.push((await completeAll(engine, request)).usage?.cachedTokens);
    }
    expect(cached).toEqual([0, 0, 0, 29, 29]);
  });

  test("goes on with a prompt that is kept, whatever others need memory for", async () => {
    await using fresh = await openFixture(name, { prefixCacheBytes: 0 });
    const kvCacheBytes = (fresh.info.memory?.kvCacheBytes ?? 0) / 8;
    await using engine = await openFixture(name, { kvCacheBytes, prefixCacheBytes: 1 << 20, contextTokens: 256 });
    const random = seededRandom(10);
    for (const length of [37, 128, 150]) {
      const begin = randomIds(random, length);
      const kept = await engine.keepPrompt(begin);
      expect(kept.keptTokens).toBe(length);
      const others = Array.from({ length: 12 }, () => answer(engine, randomIds(random, 90), 4));
      await Promise.all(others);
      const prompt = [...begin, ...randomIds(random, 5)];
      const { ids, cachedTokens } = await answer(engine, prompt, 6);
      expect(cachedTokens).toBe(length);
      expect((await answer(fresh, prompt, 6)).ids).toEqual(ids);
      await kept.release();
    }
  });
});

/** Models whose sequences have states, such whose layers have pages of several sizes, and such with one latent key. */
const SEVERAL = ["hybrids", "layers", "latent"].flatMap(fixtureNames);

describe.each(SEVERAL)("%s", (name) => {
  const hasStates = name.startsWith("hybrids");

  test("goes on with a prompt that another engine has saved", async () => {
    const savedPromptsFolder = await temporaryFolder();
    const random = seededRandom(11);
    const begins = [37, 128, 150].map((length) => randomIds(random, length));
    const prompts = begins.map((begin) => [...begin, ...randomIds(random, 5)]);
    await using fresh = await openFixture(name, { prefixCacheBytes: 0 });
    for (const source of ["computed", "saved"]) {
      await using engine = await openFixture(name, { savedPromptsFolder, prefixCacheBytes: 1 << 20 });
      for (const [index, begin] of begins.entries()) {
        // A state is that behind the last token, keys and values are kept in whole pages.
        const keptTokens = hasStates ? begin.length : 16 * Math.floor(begin.length / 16);
        expect(await engine.keepPrompt(begin)).toMatchObject({ source, keptTokens });
        const { ids, cachedTokens } = await answer(engine, prompts[index]!, 6);
        expect(cachedTokens).toBe(keptTokens);
        expect((await answer(fresh, prompts[index]!, 6)).ids).toEqual(ids);
      }
    }
  });

  test("gives the same tokens alone, in batches, with wrong drafts, in little memory and in small chunks", async () => {
    const random = seededRandom(9);
    const requests = Array.from({ length: 14 }, (_, index): GenerateRequest => {
      const logprobs = index % 2 === 0 ? 2 : undefined;
      const temperature = index % 4 === 1 ? 0.8 : 0;
      // Long answers need more memory than they are admitted with.
      const maxTokens = index % 3 === 0 ? 120 : 24;
      const params = { maxTokens, ignoreEos: true, temperature, seed: index, logprobs };
      return { prompt: randomIds(random, 1 + randomInteger(random, 130)), params };
    });
    await using fresh = await openFixture(name, { prefixCacheBytes: 0, speculation: false });
    const expected: (readonly Completed[])[] = [];
    for (const request of requests) expected.push((await completeAll(fresh, request)).choices);
    const prompts = requests.reduce((sum, { prompt }) => sum + (prompt as number[]).length - 1, 0);
    const little = {
      chunkTokens: 64,
      maxNumBatchedTokens: 64,
      contextTokens: 256,
      maxNumSeqs: 6,
      kvCacheBytes: (fresh.info.memory?.kvCacheBytes ?? 0) / 4,
    };
    for (const options of [{ prefixCacheBytes: 64 << 20 }, little] satisfies EngineOptions[]) {
      await using engine = await openFixture(name, options);
      for (let round = 0; round < 2; round++) {
        const all = await Promise.all(
          requests.map((request, index) => {
            // Every fifth token of what is predicted is wrong.
            const prediction = expected[index]?.[0]?.ids.map((id, place) =>
              place % 5 === 4 ? (id === 3 ? 4 : 3) : id,
            );
            return completeAll(engine, { ...request, prediction });
          }),
        );
        expect(all.map(({ choices }) => choices)).toEqual(expected);
      }
      const { draftedTokens, acceptedDraftTokens, cachedTokens, preemptions } = await engine.stats();
      expect(acceptedDraftTokens).toBeGreaterThan(40);
      // The other models repeat themselves, so that all drafts from text may be right.
      if (hasStates) expect(acceptedDraftTokens).toBeLessThan(draftedTokens);
      if (options === little) expect(preemptions).toBeGreaterThan(0);
      // A state is not kept where drafts of others take all that there are.
      else if (hasStates) expect(cachedTokens).toBeGreaterThan(0.8 * prompts);
    }
  });
});

const MIXTURES = ["hybrids/lfm2-moe", "hybrids/qwen3-next", "hybrids/granite4-h", "sinks/gpt-oss-mxfp4"];

test.each([...MIXTURES, "latent/deepseek-v2-lite"])(
  "%s gives the same tokens within a budget of experts",
  async (name) => {
    const random = seededRandom(11);
    const requests = Array.from({ length: 5 }, (_, index): GenerateRequest => {
      const params = { maxTokens: 12, ignoreEos: true, temperature: 0, logprobs: 2, seed: index };
      return { prompt: randomIds(random, 20 + 30 * index), params };
    });
    await using whole = await openFixture(name);
    await using streamed = await openFixture(name, { expertCacheBytes: 130_000 });
    const [expected, actual] = await Promise.all(
      [whole, streamed].map((engine) => Promise.all(requests.map((request) => completeAll(engine, request)))),
    );
    expect(actual!.map(({ choices }) => choices)).toEqual(expected!.map(({ choices }) => choices));
    expect((await streamed.stats()).expertCache?.evictions).toBeGreaterThan(0);
  },
);
