import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { openModel } from "@readme-moe/model";
import { KernelRouter } from "@readme-moe/router";
import { describe, expect, test } from "vitest";
import { OFFICIAL, officialRouter, randomPrompts } from "../support/official-router.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { largestDifference } from "../support/running-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

describe("the kernel router", () => {
  test("gives a sequence the same logits in one pass, token by token, and in any pieces", async () => {
    await using router = await officialRouter();
    const random = seededRandom(7);
    for (const tokenIds of randomPrompts(4, 1)) {
      const [whole] = await router.route([{ state: router.start(), tokenIds }]);
      for (const pieceSize of [() => 1, () => 1 + randomInteger(random, 40)]) {
        const state = router.start();
        const logits: number[] = [];
        for (let from = 0; from < tokenIds.length;) {
          const piece = tokenIds.slice(from, from + pieceSize());
          const [route] = await router.route([{ state, tokenIds: piece }]);
          logits.push(...(route?.logits ?? []));
          from += piece.length;
        }
        expect(state.numTokens).toBe(tokenIds.length);
        expect(largestDifference(logits, whole?.logits ?? [])).toBe(0);
      }
    }
  });

  test("gives a sequence the same logits alone and in any batch, bit for bit", async () => {
    await using router = await officialRouter();
    const prompts = randomPrompts(9, 2);
    const alone = [];
    for (const tokenIds of prompts) alone.push((await router.route([{ state: router.start(), tokenIds }]))[0]);
    const together = await router.route(prompts.map((tokenIds) => ({ state: router.start(), tokenIds })));
    expect(together).toEqual(alone);
  });

  test("mixes prompts and single tokens of running sequences in one call", async () => {
    await using router = await officialRouter();
    const prompts = randomPrompts(6, 3);
    const states = prompts.map(() => router.start());
    const heads = prompts.map((tokenIds, index) => (index % 2 === 0 ? tokenIds.slice(0, -1) : []));
    for (const [index, tokenIds] of heads.entries()) {
      const state = states[index];
      if (state && tokenIds.length > 0) await router.route([{ state, tokenIds }]);
    }
    const rest = prompts.map((tokenIds, index) => tokenIds.slice(heads[index]?.length ?? 0));
    const routes = await router.route(
      rest.map((tokenIds, index) => ({ state: states[index] as (typeof states)[number], tokenIds })),
    );
    for (const [index, tokenIds] of prompts.entries()) {
      const [whole] = await router.route([{ state: router.start(), tokenIds }]);
      const expected = whole?.logits.slice(-(routes[index]?.logits.length ?? 0)) ?? [];
      expect(largestDifference(routes[index]?.logits ?? [], expected)).toBe(0);
    }
  });

  test("holds any number of sequences, and frees their memory", async () => {
    await using router = await officialRouter();
    const prompts = randomPrompts(80, 5);
    const alone = await router.route(prompts.map((tokenIds) => ({ state: router.start(), tokenIds })));
    const states = prompts.map(() => router.start());
    for (const from of [0, 20, 40, 60]) {
      const some = states.slice(from, from + 20);
      const inputs = some.map((state, index) => ({ state, tokenIds: prompts[from + index]?.slice(0, -1) ?? [] }));
      await router.route(inputs.filter(({ tokenIds }) => tokenIds.length > 0));
    }
    states.slice(0, 40).forEach((state) => router.release(state));
    const inputs = states.slice(40).map((state, index) => ({ state, tokenIds: prompts[40 + index]?.slice(-1) ?? [] }));
    const last = await router.route(inputs);
    last.forEach(({ logits }, index) => {
      expect(largestDifference(logits, alone[40 + index]?.logits.slice(-7) ?? [])).toBe(0);
    });
    expect(states[0]?.numTokens).toBe(0);
  });

  test("is causal: a later token never changes an earlier one's route", async () => {
    await using router = await officialRouter();
    const [first, second] = [
      [5, 6, 7, 8, 9, 10],
      [5, 6, 7, 8, 99, 3],
    ];
    const [a, b] = await router.route([first, second].map((tokenIds) => ({ state: router.start(), tokenIds })));
    expect(a?.logits.slice(0, 4 * 7)).toEqual(b?.logits.slice(0, 4 * 7));
    expect(a?.logits.slice(4 * 7)).not.toEqual(b?.logits.slice(4 * 7));
  });

  test("rejects invalid tokens, a repeated state, and too many tokens, and does not change states", async () => {
    await using router = await officialRouter();
    const state = router.start();
    await router.route([{ state, tokenIds: [1, 2, 3] }]);
    await expect(router.route([{ state, tokenIds: [] }])).rejects.toThrow(
      /`tokenIds` to hold at least one token, got none/,
    );
    await expect(router.route([{ state, tokenIds: [128] }])).rejects.toThrow(/tokenIds\[0\].*from 0 to 127/);
    await expect(router.route([{ state, tokenIds: [1.5] }])).rejects.toThrow(TypeError);
    await expect(
      router.route([
        { state, tokenIds: [1] },
        { state, tokenIds: [2] },
      ]),
    ).rejects.toThrow(/once/);
    const long = Array.from({ length: 510 }, () => 1);
    await expect(router.route([{ state, tokenIds: long }])).rejects.toMatchObject({
      code: "ERR_CONTEXT_LENGTH",
      message: "513 tokens do not fit the router's context of 512",
    });
    expect(state.numTokens).toBe(3);
    // The last of several steps is wrong, and none of them has run.
    const states = [state, router.start(), router.start()];
    const wrong = states.map((one, index) => ({ state: one, tokenIds: [...long.slice(5), index === 2 ? 128 : 127] }));
    await expect(router.route(wrong)).rejects.toThrow(/tokenIds\[505\].*from 0 to 127/);
    expect(states.map(({ numTokens }) => numTokens)).toEqual([3, 0, 0]);
    const [continued] = await router.route([{ state, tokenIds: [4, 5] }]);
    const [whole] = await router.route([{ state: router.start(), tokenIds: [1, 2, 3, 4, 5] }]);
    expect(continued?.logits).toEqual(whole?.logits.slice(3 * 7));
    await expect(router.route([{ state: { numTokens: 0 }, tokenIds: [1] }])).rejects.toThrow(/start\(\)/);
    expect(await router.route([])).toEqual([]);
  });
});

test("a router is packed once, and held in memory if the cache cannot be written", async () => {
  const folder = await temporaryFolder();
  const file = join(folder, "file");
  await writeFile(file, "no folder");
  const model = await openModel(OFFICIAL);
  const failures: string[] = [];
  const logits = [];
  for (const cacheFolder of [join(folder, "cache"), join(folder, "cache"), file]) {
    const onCacheFailure = (reason: string): void => void failures.push(reason);
    const router = await KernelRouter.open(model, { cacheFolder, threads: 1, onCacheFailure });
    const [route] = await router.route([{ state: router.start(), tokenIds: [1, 2, 3] }]);
    logits.push(route?.logits);
    await router.dispose();
    expect(await readdir(join(folder, "cache", "kernels"))).toHaveLength(1);
    expect(failures).toHaveLength(cacheFolder === file ? 1 : 0);
  }
  expect(logits[1]).toEqual(logits[0]);
  expect(logits[2]).toEqual(logits[0]);
  await model.close();
});

test.each(["native", "wasm"] as const)(
  "%s: a disposed router rejects calls, and may be disposed again",
  async (kernel) => {
    const model = await openModel(OFFICIAL);
    const router = await KernelRouter.open(model, { kernel, threads: 1 });
    const other = await KernelRouter.open(model, { kernel, threads: 1 });
    const state = router.start();
    await router.route([{ state, tokenIds: [1, 2] }]);
    await expect(other.route([{ state, tokenIds: [3] }])).rejects.toThrow(/start\(\)/);
    other.release(state);
    expect(state.numTokens).toBe(2);
    for (const one of [router, other, router]) await one.dispose();
    await expect(router.route([{ state, tokenIds: [3] }])).rejects.toThrow(TypeError);
    router.release(state);
    await model.close();
  },
);
