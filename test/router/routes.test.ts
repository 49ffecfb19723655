// From logits to experts, and the choice of a router.

import { join } from "node:path";
import { openModel } from "@readme-moe/model";
import { argmaxRoute, fixedRouter, KernelRouter, openRouter, routeStatistics, ruleRouter } from "@readme-moe/router";
import { describe, expect, test } from "vitest";
import { OFFICIAL } from "../support/official-router.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyReadMe } from "../support/tiny-read-me.ts";

describe("choosing experts", () => {
  test("chooses the largest logit, the lower index among equals", () => {
    expect(Array.from(argmaxRoute(Float32Array.of(1, 3, 3, -1, -2, -1), 3))).toEqual([1, 0]);
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
