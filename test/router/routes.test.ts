// From logits to experts, and the choice of a router.

import { join } from "node:path";
import { openModel } from "@readme-moe/model";
import {
  argmaxRoute,
  fixedRouter,
  hystereticRoute,
  KernelRouter,
  openRouter,
  routeStatistics,
  ruleRouter,
  withHysteresis,
} from "@readme-moe/router";
import { describe, expect, test } from "vitest";
import { OFFICIAL, officialRouter, randomPrompts } from "../support/official-router.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyReadMe } from "../support/tiny-read-me.ts";

describe("choosing experts", () => {
  test("chooses the largest logit, the lower index among equals", () => {
    expect(Array.from(argmaxRoute(Float32Array.of(1, 3, 3, -1, -2, -1), 3))).toEqual([1, 0]);
  });

  test("hysteresis keeps the expert until another one is ahead by more than the margin", () => {
    const logits = Float32Array.of(2, 0, 0, 1, 0, 1.5, 3, 0);
    expect(Array.from(hystereticRoute(logits, 2, 1, undefined))).toEqual([0, 0, 1, 0]);
    expect(Array.from(hystereticRoute(logits, 2, 1, 1))).toEqual([0, 0, 1, 0]);
    expect(Array.from(hystereticRoute(logits, 2, 10, 1))).toEqual([1, 1, 1, 1]);
    expect(Array.from(hystereticRoute(Float32Array.of(1, 0), 2, 10, undefined))).toEqual([0]);
    expect(Array.from(hystereticRoute(Float32Array.of(0, 1), 2, 10, 0))).toEqual([0]);
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
    expect(() => withHysteresis(router, -1)).toThrow(/`margin` to be a number from 0 up, got `-1`/);
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

  test("a wrapped router releases states, is disposed, and refuses foreign states and routers without logits", async () => {
    await using router = await officialRouter();
    const sticky = withHysteresis(router, 1);
    expect([sticky.numExperts, sticky.chunkTokens]).toEqual([7, router.chunkTokens]);
    const state = sticky.start();
    await sticky.route([{ state, tokenIds: [1, 2, 3] }]);
    expect(state.numTokens).toBe(3);
    sticky.release(state);
    expect(state.numTokens).toBe(0);
    await expect(sticky.route([{ state: router.start(), tokenIds: [1] }])).rejects.toThrow(/`state`.*start\(\)/);
    const blind = withHysteresis(fixedRouter(2, 1), 0);
    await expect(blind.route([{ state: blind.start(), tokenIds: [1] }])).rejects.toThrow("a router with logits");
    await sticky.dispose();
    await expect(router.route([{ state: router.start(), tokenIds: [3] }])).rejects.toThrow(TypeError);
  });

  test("statistics match plain counts (seeds 1 to 20)", () => {
    for (let seed = 1; seed <= 20; seed++) {
      const random = seededRandom(seed);
      const routes = Array.from({ length: 1 + randomInteger(random, 4) }, () =>
        Array.from({ length: randomInteger(random, 9) }, () => randomInteger(random, 3)),
      ).concat([[2]]);
      const all = routes.flat();
      const pairs = routes.flatMap((route) => route.slice(1).map((expert, index) => expert === route[index]));
      const { shares, locality } = routeStatistics(routes, 4);
      expect(shares).toEqual([0, 1, 2, 3].map((one) => all.filter((expert) => expert === one).length / all.length));
      expect(locality).toBe(pairs.length === 0 ? 1 : pairs.filter(Boolean).length / pairs.length);
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
    await expect(wild.route([{ state: wild.start(), tokenIds: [1] }])).rejects.toThrow(/`rule\(…\)`.*from 0 to 1/);
    await expect(fixed.route([{ state: { numTokens: 0 }, tokenIds: [1] }])).rejects.toThrow(/`state`.*start\(\)/);
    for (const numExperts of [0, 65_537]) {
      expect(() => fixedRouter(numExperts, 0)).toThrow(/`numExperts`.*from 1 to 65,?536/);
      expect(() => ruleRouter(numExperts, () => 0)).toThrow(/`numExperts`.*from 1 to 65,?536/);
    }
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
    for (const choice of [undefined, "router"]) {
      const router = await openRouter(model, choice);
      expect(router).toBeInstanceOf(KernelRouter);
      expect(router.chunkTokens).toBe(512);
      await router.dispose();
    }
    await model.close();
  });

  test("a model without a router needs an expert's name, unless it has only one", async () => {
    const folder = await temporaryFolder();
    for (const numExperts of [1, 3]) {
      const path = join(folder, `${numExperts}`);
      await writeTinyReadMe(path, { numExperts, hasRouter: false });
      const model = await openModel(path);
      const refusal = { code: "ERR_MODEL_INVALID", message: expect.stringContaining("has no router") as unknown };
      await expect(KernelRouter.open(model)).rejects.toMatchObject(refusal);
      const all = model.experts.names.join(", ");
      const named = expect.stringContaining(`choose one of its experts (${all})`) as unknown;
      await expect(openRouter(model, "router")).rejects.toMatchObject({ ...refusal, message: named });
      if (numExperts > 1) await expect(openRouter(model)).rejects.toMatchObject({ ...refusal, message: named });
      else expect(await openRouter(model)).toMatchObject({ numExperts: 1 });
      await model.close();
    }
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
