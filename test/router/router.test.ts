import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { openModel } from "@readme-moe/model";
import {
  argmaxRoute,
  fixedRouter,
  KernelRouter,
  hystereticRoute,
  openRouter,
  ruleRouter,
  withHysteresis,
} from "@readme-moe/router";
import { describe, expect, test } from "vitest";
import { fixture } from "../support/fixtures.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { largestDifference } from "../support/running-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const OFFICIAL = fixture("official-fused-residual");

async function officialRouter(): Promise<KernelRouter & AsyncDisposable> {
  const model = await openModel(OFFICIAL);
  const router = await KernelRouter.open(model, { threads: 2 });
  return Object.assign(router, {
    [Symbol.asyncDispose]: async () => {
      await router.dispose();
      await model.close();
    },
  });
}

function randomPrompts(count: number, seed: number): readonly (readonly number[])[] {
  const random = seededRandom(seed);
  return Array.from({ length: count }, () =>
    Array.from({ length: 1 + randomInteger(random, 150) }, () => randomInteger(random, 128)),
  );
}

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
    await expect(router.route([{ state, tokenIds: [] }])).rejects.toThrow(RangeError);
    await expect(router.route([{ state, tokenIds: [128] }])).rejects.toThrow(/tokenIds\[0\].*from 0 to 127/);
    await expect(router.route([{ state, tokenIds: [1.5] }])).rejects.toThrow(TypeError);
    await expect(
      router.route([
        { state, tokenIds: [1] },
        { state, tokenIds: [2] },
      ]),
    ).rejects.toThrow(/once/);
    const long = Array.from({ length: 510 }, () => 1);
    await expect(router.route([{ state, tokenIds: long }])).rejects.toMatchObject({ code: "ERR_CONTEXT_LENGTH" });
    expect(state.numTokens).toBe(3);
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

describe("choosing experts", () => {
  test("chooses the largest logit, the lower index among equals", () => {
    expect(Array.from(argmaxRoute(Float32Array.of(1, 3, 3, -1, -2, -1), 3))).toEqual([1, 0]);
  });

  test("hysteresis keeps the expert until another one is ahead by more than the margin", () => {
    const logits = Float32Array.of(2, 0, 0, 1, 0, 1.5, 3, 0);
    expect(Array.from(hystereticRoute(logits, 2, 1, undefined))).toEqual([0, 0, 1, 0]);
    expect(Array.from(hystereticRoute(logits, 2, 1, 1))).toEqual([0, 0, 1, 0]);
    expect(Array.from(hystereticRoute(logits, 2, 10, 1))).toEqual([1, 1, 1, 1]);
  });

  test("hysteresis with margin 0 is the plain choice if no logits are equal, in any pieces", async () => {
    await using router = await officialRouter();
    for (const margin of [0, 1.5]) {
      const sticky = withHysteresis(router, margin);
      const [tokenIds] = randomPrompts(1, 4) as [readonly number[]];
      const [whole] = await sticky.route([{ state: sticky.start(), tokenIds }]);
      const state = sticky.start();
      const pieces: number[] = [];
      for (const tokenId of tokenIds) {
        const [route] = await sticky.route([{ state, tokenIds: [tokenId] }]);
        pieces.push(...(route?.experts ?? []));
      }
      expect(pieces).toEqual(Array.from(whole?.experts ?? []));
      if (margin === 0) expect(whole?.experts).toEqual(argmaxRoute(whole?.logits ?? new Float32Array(), 7));
      else expect(changes(whole?.experts)).toBeLessThan(changes(argmaxRoute(whole?.logits ?? new Float32Array(), 7)));
    }
    expect(() => withHysteresis(router, -1)).toThrow(RangeError);
    expect(() => withHysteresis(router, Number.NaN)).toThrow(RangeError);
  });

  test("hysteresis continues with the last token's expert, for several sequences at once (seed 12)", async () => {
    await using router = await officialRouter();
    const random = seededRandom(12);
    for (const margin of [0, 0.5, 2]) {
      const sticky = withHysteresis(router, margin);
      const sequences = randomPrompts(5, 13).map((tokenIds) => ({
        tokenIds,
        state: sticky.start(),
        experts: [] as number[],
      }));
      const left = () => sequences.filter(({ tokenIds, experts }) => experts.length < tokenIds.length);
      while (left().length > 0) {
        const some = left().filter(() => random() < 0.7);
        const routes = await sticky.route(
          some.map(({ tokenIds, state, experts: { length } }) => ({
            state,
            tokenIds: tokenIds.slice(length, length + 2 + randomInteger(random, 9)),
          })),
        );
        for (const [index, { experts }] of some.entries()) experts.push(...(routes[index]?.experts ?? []));
      }
      for (const { tokenIds, experts } of sequences) {
        const [whole] = await router.route([{ state: router.start(), tokenIds }]);
        expect(experts).toEqual(stickyExperts(whole?.logits ?? new Float32Array(), 7, margin));
      }
    }
  });

  test("a rule and a fixed expert are routers", async () => {
    const byPosition = ruleRouter(2, (_, position) => position % 2);
    const state = byPosition.start();
    expect(Array.from((await byPosition.route([{ state, tokenIds: [9, 9, 9] }]))[0]?.experts ?? [])).toEqual([0, 1, 0]);
    expect(Array.from((await byPosition.route([{ state, tokenIds: [9] }]))[0]?.experts ?? [])).toEqual([1]);
    const fixed = fixedRouter(7, 5);
    const [route] = await fixed.route([{ state: fixed.start(), tokenIds: [1, 2] }]);
    expect(Array.from(route?.experts ?? [])).toEqual([5, 5]);
    expect(() => fixedRouter(7, 7)).toThrow(/`expert`.*from 0 to 6/);
    const wild = ruleRouter(2, () => 2);
    await expect(wild.route([{ state: wild.start(), tokenIds: [1] }])).rejects.toThrow(RangeError);
  });

  test("a model's experts are chosen by name, by index, or by its router", async () => {
    const model = await openModel(OFFICIAL);
    for (const [choice, expert] of [
      ["book", 1],
      ["3", 3],
      [6, 6],
    ] as const) {
      const router = await openRouter(model, choice);
      const [route] = await router.route([{ state: router.start(), tokenIds: [1] }]);
      expect(Array.from(route?.experts ?? [])).toEqual([expert]);
    }
    await expect(openRouter(model, "7")).rejects.toThrow(RangeError);
    await expect(openRouter(model, -1)).rejects.toThrow(RangeError);
    const router = await openRouter(model);
    expect(router).toBeInstanceOf(KernelRouter);
    await router.dispose();
    await model.close();
  });
});

function changes(experts: Uint16Array | undefined): number {
  return Array.from(experts ?? []).filter((expert, index, all) => index > 0 && expert !== all[index - 1]).length;
}

/** Chooses token by token the best expert, or the previous one if it is within the margin. */
function stickyExperts(logits: Float32Array, numExperts: number, margin: number): readonly number[] {
  const chosen: number[] = [];
  for (let from = 0; from < logits.length; from += numExperts) {
    const scores = Array.from(logits.subarray(from, from + numExperts));
    const most = Math.max(...scores);
    const before = chosen.at(-1);
    const stays = before !== undefined && most - (scores[before] as number) <= margin;
    chosen.push(stays ? before : scores.indexOf(most));
  }
  return chosen;
}
