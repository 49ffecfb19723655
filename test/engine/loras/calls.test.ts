// How a step is split into calls, and how experts get their numbers and routers: invariants of random cases.

import type { PreGatingRouter, RouterState } from "@readme-moe/core";
import { openRouter } from "@readme-moe/router";
import { expect, test } from "vitest";
import { callsOf } from "../../../packages/engine/src/kernel-calls.ts";
import { ExpertNames, Routers } from "../../../packages/engine/src/experts/routers.ts";
import type { StepSequence } from "../../../packages/engine/src/step-runner.ts";
import * as fc from "../../support/fast-check.ts";
import { randomInteger, seededRandom } from "../../support/random.ts";
import { randomRouter } from "../../support/random-router.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const slot = { numTokens: 0, reservedTokens: 0 } as StepSequence["slot"];
const sequenceOf = (experts: readonly number[]): StepSequence => ({
  slot,
  tokenIds: experts.map((_, index) => index),
  experts,
  logitsOf: [experts.length - 1],
});

test("calls hold every token once and in order, within their rows and the experts that fit", () => {
  const experts = fc.array(fc.nat(6), { minLength: 1, maxLength: 30 });
  const steps = fc.array(experts, { minLength: 1, maxLength: 6 });
  fc.assert(
    fc.property(steps, fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 8 }), (lists, maxRows, most) => {
      const sequences = lists.map(sequenceOf);
      const calls = callsOf(sequences, { maxRows }, (some) => some.size <= most);
      const next = lists.map(() => 0);
      for (const { parts, experts: distinct } of calls) {
        expect(parts.reduce((sum, { from, to }) => sum + to - from, 0)).toBeLessThanOrEqual(maxRows);
        expect(distinct.length).toBeLessThanOrEqual(most);
        const own = parts.flatMap(({ index, from, to }) => lists[index]?.slice(from, to) ?? []);
        expect(distinct).toEqual([...new Set(own)].toSorted((a, b) => a - b));
        for (const { index, from, to, sequence, wanted } of parts) {
          expect([sequence, from]).toEqual([sequences[index], next[index]]);
          expect(to).toBeGreaterThan(from);
          const isLast = to === lists[index]?.length;
          expect(wanted.map(({ token }) => token)).toEqual(isLast ? [to - 1] : []);
          next[index] = to;
        }
      }
      expect(next).toEqual(lists.map(({ length }) => length));
    }),
  );
});

test("without a limit of experts, rows of one expert are neighbours and nothing else is split", () => {
  const sequences = [[2], [0], [2], [1, 1], [0]].map(sequenceOf);
  const [call, ...others] = callsOf(sequences, { maxRows: 100 });
  expect(others).toEqual([]);
  expect(call?.parts.map(({ index }) => index)).toEqual([1, 4, 3, 0, 2]);
  expect(call?.experts).toEqual([0, 1, 2]);
});

test("experts keep their numbers, and the number of a removed one is used again", () => {
  const command = fc.record({ name: fc.constantFrom("a", "b", "c", "d", "e"), isAdded: fc.boolean() });
  fc.assert(
    fc.property(fc.array(command, { maxLength: 40, size: "max" }), (commands) => {
      const names = new ExpertNames();
      const known = new Map<string, number>();
      for (const { name, isAdded } of commands) {
        const index = known.get(name);
        if (isAdded && index !== undefined) expect(() => names.reserve(name)).toThrow(`got \`${name}\``);
        else if (isAdded) {
          const taken = new Set(known.values());
          const free = Array.from({ length: 6 }, (_, i) => i + 1).find((i) => !taken.has(i)) ?? 0;
          expect(names.reserve(name)).toBe(free);
          expect(() => names.indexOf(name)).toThrow(RangeError);
          names.setUsable(free, true);
          known.set(name, free);
        } else if (index !== undefined) {
          names.setUsable(index, false);
          expect(() => names.indexOf(name)).toThrow(RangeError);
          names.free(index);
          known.delete(name);
        }
        for (const [one, at] of known) expect([names.indexOf(one), names.indexOf(at)]).toEqual([at, at]);
        expect(names.list.filter((one) => one !== "").toSorted()).toEqual(["none", ...known.keys()].toSorted());
        expect(names.list).toHaveLength(1 + Math.max(0, ...known.values()));
      }
    }),
  );
  expect(() => new ExpertNames().indexOf("")).toThrow(RangeError);
});

const ROUTER_SIZES = { vocabSize: 20, numExperts: 4, embeddingSize: 8, innerSize: 8, numHeads: 1, numLayers: 1 };
const MODEL = { experts: { names: ["dense"] } } as unknown as ConstructorParameters<typeof Routers>[0];

/** Routers of an engine as one would write them down: a name has a place, and each place a router until it is freed. */
interface PlainRouters {
  readonly routers: Routers;
  readonly names: ExpertNames;
  readonly hasRouter: boolean;
  readonly fallback: string | undefined;
  /** Names by place. */
  readonly places: (string | undefined)[];
  /** Routers that were given, by place, and the set's own. */
  readonly given: Map<number, PreGatingRouter>;
  routed: PreGatingRouter | undefined;
  /** Expert of each output of the set's router. */
  readonly targets: number[];
  readonly states: { readonly own: RouterState; readonly plain: RouterState }[];
}

test("routers follow a plain list of experts, while experts of two engines come, go and come back", async () => {
  const config = { ...ROUTER_SIZES, normalizer: 2, ropeTheta: 100, contextTokens: 600 };
  const { weights } = randomRouter(config, 5);
  const options = { threads: 1, cacheFolder: await temporaryFolder() };
  const set = (hasRouter: boolean) => ({
    path: "set",
    experts: [],
    router: hasRouter ? weights : undefined,
    fingerprint: async () => "plain routers",
    close: async () => undefined,
  });
  const plainRouter = await openRouter({ ...set(true), ...MODEL }, "router", options);
  const random = seededRandom(3);
  const pick = <Item>(items: readonly Item[]): Item => items[randomInteger(random, items.length)] as Item;
  const open = (hasRouter: boolean): PlainRouters => {
    const names = new ExpertNames();
    const listed = hasRouter || random() < 0.5 ? ["a", "b", "c"] : [];
    for (const name of listed) names.setUsable(names.reserve(name), true);
    const fallback = pick([undefined, undefined, "b"]);
    return {
      routers: new Routers(MODEL, { names, set: set(hasRouter) }, fallback, options),
      names,
      hasRouter,
      fallback,
      places: ["none", ...listed],
      given: new Map(),
      routed: undefined,
      targets: [0, 1, 2, 3],
      states: [],
    };
  };
  const engines = [open(true), open(false)];
  const seen = { routed: 0, fixed: 0, refused: 0, retargeted: 0 };
  for (let step = 0; step < 600; step++) {
    const which = randomInteger(random, 2);
    const engine = engines[which] as PlainRouters;
    const { routers, names, places, given, targets, fallback, hasRouter, states } = engine;
    expect(routers.hasRouter).toBe(hasRouter);
    const name = pick(["a", "b", "c", "d"]);
    const action = randomInteger(random, 40);
    if (action === 0) {
      await routers.close();
      engines[which] = open(which === 0);
    } else if (action < 6) {
      if (places.includes(name)) continue;
      const place = places.indexOf(undefined) < 0 ? places.length : places.indexOf(undefined);
      expect(names.reserve(name)).toBe(place);
      names.setUsable(place, true);
      places[place] = name;
    } else if (action < 12) {
      const place = places.indexOf(name);
      if (place < 0) continue;
      names.setUsable(place, false);
      expect(routers.forget(place)).toBe(given.get(place));
      names.free(place);
      given.delete(place);
      places[place] = undefined;
      while (places.at(-1) === undefined) places.pop();
      // The router has not learned the expert that takes its place.
      for (const [output, target] of targets.entries()) if (target === place) targets[output] = 0;
    } else {
      const choice = pick([undefined, "router", "none", "dense", "d", "nobody", 0, 1, 2, 3, 4, name]);
      const chosen = choice ?? fallback;
      const isRouted = chosen === "router" || (chosen === undefined && hasRouter);
      const isPlain = chosen === undefined || chosen === "none" || (chosen === "dense" && places.length === 1);
      const place = isPlain ? 0 : typeof chosen === "number" ? chosen : places.indexOf(chosen);
      const exists = isRouted ? hasRouter : places[place] !== undefined;
      const asked = routers.routerFor(choice);
      if (!exists) {
        await expect(asked).rejects.toMatchObject(isRouted ? { code: "ERR_MODEL_INVALID" } : { name: "RangeError" });
        seen.refused++;
        continue;
      }
      const router = await asked;
      const tokenIds = Array.from({ length: 1 + randomInteger(random, 4) }, () => randomInteger(random, 20));
      if (isRouted) {
        engine.routed ??= router;
        expect(router).toBe(engine.routed);
        // A sequence that runs sees removals, too.
        if (states.length < 3) states.push({ own: router.start(), plain: plainRouter.start() });
        const state = pick(states);
        const [route] = await router.route([{ state: state.own, tokenIds }]);
        const [plain] = await plainRouter.route([{ state: state.plain, tokenIds }]);
        const experts = Array.from(plain?.experts ?? [], (output) => targets[output]);
        expect({ ...route, experts: Array.from(route?.experts ?? []) }).toStrictEqual({ ...plain, experts });
        if (experts.join() !== plain?.experts.join()) seen.retargeted++;
        seen.routed++;
        if (random() < 0.2) {
          states.splice(states.indexOf(state), 1);
          router.release(state.own);
          plainRouter.release(state.plain);
        }
      } else {
        const before = given.get(place);
        if (before) expect(router).toBe(before);
        else expect([...given.values(), engine.routed]).not.toContain(router);
        given.set(place, router);
        const [route] = await router.route([{ state: router.start(), tokenIds }]);
        expect(Array.from(route?.experts ?? [])).toStrictEqual(tokenIds.map(() => place));
        seen.fixed++;
      }
    }
  }
  await Promise.all([...engines.map(({ routers }) => routers.close()), plainRouter.dispose()]);
  expect(
    Object.values(seen).every((count) => count > 20),
    JSON.stringify(seen),
  ).toBe(true);
});

test("a request that opens a router again after a failure shares it with those that come later", async () => {
  const { weights: router } = randomRouter({ ...ROUTER_SIZES, normalizer: 2, ropeTheta: 100, contextTokens: 600 }, 5);
  let numFailures = 0;
  const fingerprint = async (): Promise<string> => {
    if (numFailures++ === 0) throw new Error("The disk is busy");
    return "shared after a failure";
  };
  const options = { threads: 1, cacheFolder: await temporaryFolder() };
  const model = { path: "model", experts: { names: ["a", "b", "c", "d"] }, router, fingerprint };
  const routers = new Routers(model as unknown as typeof MODEL, undefined, undefined, options);
  const again = routers.routerFor("router").catch(() => routers.routerFor("router"));
  const failing = routers.routerFor("router");
  await expect(failing).rejects.toThrow("The disk is busy");
  expect(await routers.routerFor("router")).toBe(await again);
  await routers.close();
});
