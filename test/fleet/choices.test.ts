// Decisions of a fleet that need no server: versions, affinities, priorities of queues.

import type { EngineInfo, ExpertCacheStats } from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import { affinitiesOf, affinityOf, countExperts, sharesOf } from "../../packages/fleet/src/affinity.ts";
import { chooseVersion } from "../../packages/fleet/src/front/fleet-view.ts";
import {
  describeWorker,
  EngineMeasure,
  type HeldJob,
  HomeKeeper,
  type HomeMember,
} from "../../packages/fleet/src/worker/describe-worker.ts";
import { newCounters } from "../../packages/fleet/src/worker/state.ts";

type Shape = Pick<EngineInfo, "experts" | "expertKind">;

const worker = (
  modelVersion: string,
  maxNumSeqs: number,
  more: { readonly isDraining?: boolean; readonly promptVersion?: string } = {},
): Parameters<typeof chooseVersion>[0][number] => ({
  modelVersion,
  maxNumSeqs,
  promptVersion: "p",
  isDraining: false,
  ...more,
});

describe("the model version of new requests", () => {
  test("is that with the most places, and stays while others have as many", () => {
    expect(chooseVersion([worker("a", 8), worker("b", 4), worker("b", 8)], "p", undefined)).toBe("b");
    expect(chooseVersion([worker("a", 8), worker("b", 8)], "p", "b")).toBe("b");
    expect(chooseVersion([worker("a", 8), worker("b", 8)], "p", undefined)).toBe("a");
    expect(chooseVersion([worker("a", 9), worker("b", 8)], "p", "b")).toBe("a");
  });

  test("is of workers that take requests, with the front's own prompts", () => {
    const gone = worker("a", 9, { isDraining: true });
    expect(chooseVersion([gone, worker("b", 1)], "p", "a")).toBe("b");
    expect(chooseVersion([gone, worker("b", 1, { promptVersion: "q" })], "p", "a")).toBeUndefined();
    expect(chooseVersion([], "p", "a")).toBeUndefined();
  });
});

describe("the affinity of a prompt", () => {
  const mixture: Shape = { experts: ["law", "code", "prose"], expertKind: "ffn" };
  const dense: Shape = { experts: ["all"], expertKind: "ffn" };

  test("is its main expert", () => {
    const of = (experts: number[]): string => affinityOf({ tokenIds: experts.map(() => 1), experts }, mixture);
    expect(of([0, 2, 2, 1])).toBe("e2");
    expect(of([1, 0])).toBe("e0");
    expect(of([])).toBe("e0");
    expect(affinitiesOf(mixture)).toEqual(["e0", "e1", "e2"]);
  });

  test("of a dense model depends on the prompt's beginning and salt alone", () => {
    const of = (tokenIds: readonly number[]): string => affinityOf({ tokenIds, experts: tokenIds.map(() => 0) }, dense);
    const system = Array.from({ length: 40 }, (_, index) => 7 * index);
    expect(of([...system, 1, 2])).toBe(of([...system, 3]));
    const salts = Array.from({ length: 200 }, (_, index) => `salt ${index}`);
    const salted = salts.map((cacheSalt) => affinityOf({ tokenIds: system, experts: [], cacheSalt }, dense));
    expect([...new Set(salted)].toSorted()).toEqual(affinitiesOf(dense));
    const buckets = new Set(Array.from({ length: 200 }, (_, index) => of([index, 5])));
    expect([...buckets].toSorted()).toEqual(affinitiesOf(dense));
  });
});

test("a worker's state counts what its jobs hold, and a draining one takes no more", () => {
  const jobs = [
    { affinity: "e1", numSeqs: 2, kvTokens: 300 },
    { affinity: "e0", numSeqs: 1, kvTokens: 100 },
    { affinity: "e1", numSeqs: 1, kvTokens: 50 },
  ];
  const info = { precision: "int8", maxNumSeqs: 8, kvCapacityTokens: 400 };
  const shared = {
    id: "w",
    promptVersion: "p",
    modelVersion: "m",
    info,
    publishedMs: 5,
    pulls: 3,
    measure: new EngineMeasure(),
    homes: {},
  };
  const of = (isDraining: boolean, held = jobs): ReturnType<typeof describeWorker> =>
    describeWorker({ ...shared, jobs: held, counters: newCounters(), isDraining });
  expect(of(false)).toMatchObject({ runningSeqs: 4, freeSeqs: 4, freeKvTokens: 0, runningByKey: { e0: 1, e1: 3 } });
  expect(of(true).freeSeqs).toBe(0);
  // A request that is larger than the memory of keys and values still finds a worker.
  expect(of(false, []).freeKvTokens).toBeGreaterThan(1e9);
});

test("a worker's state has the experts of its jobs, weighted by their shares", () => {
  const shared = {
    id: "w",
    promptVersion: "p",
    modelVersion: "m",
    publishedMs: 5,
    pulls: 3,
    isDraining: false,
    homes: {},
  };
  const info = { precision: "int8", maxNumSeqs: 8, kvCapacityTokens: 400 };
  const of = (...jobs: HeldJob[]): ReturnType<typeof describeWorker> =>
    describeWorker({ ...shared, info, jobs, measure: new EngineMeasure(), counters: newCounters() });
  const shares = sharesOf(countExperts([0, 0, 0, 2], { experts: ["a", "b", "c"], expertKind: "ffn" }));
  expect(shares).toEqual([0.75, 0, 0.25]);
  const mixed = { affinity: "e0", numSeqs: 2, kvTokens: 9, expertShares: shares };
  const pure = { affinity: "e1", numSeqs: 1, kvTokens: 9, expertShares: [0, 1, 0] };
  expect(of(mixed, pure).runningByExpert).toEqual([1.5, 1, 0.5]);
  expect(of({ affinity: "p0", numSeqs: 1, kvTokens: 9 })).not.toHaveProperty("runningByExpert");
  expect(sharesOf([])).toBeUndefined();
});

test("a worker's measure follows its engine", () => {
  const measure = new EngineMeasure();
  expect(measure).toMatchObject({ stepMs: 0, stepsPerSeq: 0, missingBytes: [], expertPlaces: Infinity });
  const cost = { fixedMs: 1, msPerToken: 2, msPerExpert: 3, msPerCachedToken: 4, loadMsPerByte: 5 };
  const expertCache = { layerBytes: [30, 70], budgetBytes: 250 } as unknown as ExpertCacheStats;
  measure.observe({ steps: 10, cost, missingBytes: [0, 100, 30], expertCache }, 1, 1000);
  measure.observe({ steps: 30, cost, missingBytes: [0, 100, 30], expertCache }, 1, 2000);
  expect(measure).toMatchObject({ cost, stepMs: 50, missingBytes: [0, 100, 30], expertPlaces: 2.5 });
  measure.ended({ affinity: "e1", steps: 20, cachedTokens: 0 });
  expect(measure).toMatchObject({ stepsPerSeq: 20, prefixTokens: {} });
  measure.ended({ affinity: "e1", steps: 20, cachedTokens: 64 });
  measure.ended({ affinity: "e1", steps: 20, cachedTokens: 0 });
  expect(measure.prefixTokens).toEqual({ e1: 32 });
  // What was evicted is found no more.
  for (let count = 0; count < 6; count++) measure.ended({ affinity: "e1", steps: 20, cachedTokens: 0 });
  expect(measure.prefixTokens).toEqual({});
  measure.worked("e1", 3);
  measure.worked("e1", 2);
  for (const workByKey of [{ e1: 5 }, {}]) {
    measure.observe({ steps: 30, cost }, 1, 3000);
    expect(measure.workByKey).toEqual(workByKey);
  }
});

const states = (draining: string, first?: HomeKeeper): HomeMember[] =>
  ["a", "b", "c"].map((id, index) => ({
    id,
    maxNumSeqs: 8,
    isDraining: id === draining,
    workByKey: { [`e${index}`]: 100 },
    homes: id === "a" ? (first?.homes.byKey ?? {}) : {},
  }));

test("homes spread busy affinities over the workers, leave one that drains, and are those of the first worker", () => {
  const keeper = new HomeKeeper();
  const homesOfAll = (): readonly string[] =>
    Object.values(keeper.homes.byKey).flatMap((homes) => homes.map(({ workerId }) => workerId));
  keeper.observe("a", states(""), 1000);
  expect(homesOfAll().toSorted()).toEqual(["a", "b", "c"]);
  const other = new HomeKeeper();
  other.observe("b", states("", keeper), 1000);
  expect(other.homes).toEqual(keeper.homes);
  // The next one decides, and moves what it has to.
  other.observe("b", states("a", keeper), 1000);
  expect(new Set(Object.values(other.homes.byKey).flatMap((homes) => homes.map(({ workerId }) => workerId)))).toEqual(
    new Set(["b", "c"]),
  );
  keeper.observe("a", [], 1000);
  expect(homesOfAll()).toEqual([]);
});
