// Reads and evictions because of estimated uses, in mixtures with a router in every layer.

import {
  EVICTION_POLICIES,
  ExpertCache,
  planReads,
  resolveEvictionPolicy,
  unitIndex,
  type CachedUnit,
  type ExpertLayout,
  type UseForecast,
} from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import { certainUses, estimatedUses, nextUses } from "../../packages/core/src/expert-cache/plan-reads.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

const LAYOUT: ExpertLayout = { numExperts: 4, layerBytes: [10, 10, 10] };

/** A forecast of a mixture: only the running layer's experts are known. */
function usesAt(
  layer: number,
  experts: readonly number[],
  chances: Readonly<Record<string, number>>,
  limits: Partial<UseForecast["estimates"]> = {},
): UseForecast {
  const all = new Float32Array(12);
  for (const [unit, chance] of Object.entries(chances)) {
    const [at = 0, expert = 0] = unit.split("/").map(Number);
    all[unitIndex({ layer: at, expert }, LAYOUT)] = chance;
  }
  const running = LAYOUT.layerBytes.map((_, at) => (at === layer ? experts : []));
  return { layer, running, estimates: { chances: all, layersAhead: 2, leastChance: 0.3, ...limits } };
}

function planOf(units: readonly CachedUnit[], budgetBytes: number, uses: UseForecast, policy = "belady" as const) {
  const history = { numLayersRun: 9, numUses: new Uint32Array(12), lastUses: new Float64Array(12), numEvictions: 0 };
  const options = { layout: LAYOUT, policy: resolveEvictionPolicy(policy), lookaheadLayers: 1 };
  return planReads({ ...history, budgetBytes, units }, uses, options);
}

const used = (expert: number): CachedUnit => ({ layer: 0, expert, wasUsed: true });

const names = (units: readonly { readonly layer: number; readonly expert: number }[]) =>
  units.map(({ layer, expert }) => `${layer}/${expert}`);

describe("the expected next use", () => {
  test("is the mean over all runs of the layer, each with the same chance", () => {
    const random = seededRandom(4);
    for (let round = 0; round < 60; round++) {
      const layer = randomInteger(random, 4);
      const chances = Float32Array.from({ length: 12 }, () => 0.05 + 0.95 * random());
      const estimates = { chances, layersAhead: 2, leastChance: 0 };
      const uses: UseForecast = { layer, running: [[], [], []], estimates };
      const { slots } = nextUses(uses, LAYOUT, certainUses(uses));
      for (const [index, chance] of chances.entries()) {
        // Walks on through the layers; between two steps the last layer counts as running.
        let mean = 0;
        let left = 1;
        for (let slot = 1; slot < 3000; slot++) {
          if ((Math.min(layer, 2) + slot) % 3 !== Math.floor(index / 4)) continue;
          mean += slot * left * chance;
          left *= 1 - chance;
        }
        expect(slots[index]).toBeCloseTo(mean, 6);
      }
    }
  });

  test("is exact where it is certain, and never where there is no chance", () => {
    const uses = usesAt(1, [2], { "1/2": 0.1, "0/0": 0 });
    const { slots, isCertain } = nextUses(uses, LAYOUT, certainUses(uses));
    expect([slots[unitIndex({ layer: 1, expert: 2 }, LAYOUT)], isCertain[6]]).toEqual([0, 1]);
    expect(slots[0]).toBe(Infinity);
  });
});

describe("reads because of estimates", () => {
  test("come after those of the running layer, the soonest expected first, above the least chance and in reach", () => {
    const chances = { "1/0": 0.4, "1/1": 0.9, "2/3": 0.95, "2/0": 0.2, "0/3": 1 };
    const plan = planOf([], 100, usesAt(0, [2, 1], chances));
    expect(names(plan.load)).toEqual(["0/2", "0/1", "1/1", "2/3", "1/0"]);
    expect(plan.load.map(({ isEstimated }) => isEstimated)).toEqual([undefined, undefined, true, true, true]);
    expect(names(planOf([], 100, usesAt(0, [2], chances, { layersAhead: 1 })).load)).toEqual(["0/2", "1/1", "1/0"]);
    expect(names(planOf([], 100, usesAt(0, [2], chances, { layersAhead: 0 })).load)).toEqual(["0/2"]);
    // The layer after the last one is the first of the next token.
    expect(names(planOf([], 100, usesAt(2, [2], chances)).load)).toEqual(["2/2", "0/3", "1/1", "1/0"]);
  });

  test("take the room of what is expected later, never of what is certain, expected sooner or read and awaited", () => {
    const units: readonly CachedUnit[] = [
      { layer: 0, expert: 2, wasUsed: true },
      { layer: 2, expert: 0, wasUsed: true },
      { layer: 2, expert: 1, wasUsed: true },
    ];
    const chances = { "1/1": 0.6, "2/0": 0.9, "2/1": 0.35 };
    const plan = planOf(units, 30, usesAt(0, [2], chances));
    expect(names(plan.evict)).toEqual(["2/1"]);
    expect(names(plan.load)).toEqual(["1/1"]);
    const sooner = planOf(units, 30, usesAt(0, [2], { ...chances, "2/1": 0.95 }));
    expect([sooner.evict, sooner.load]).toEqual([[], []]);
    const awaited = units.map((unit) => (unit.expert === 1 ? { ...unit, wasUsed: false, isEstimated: true } : unit));
    expect(planOf(awaited, 30, usesAt(0, [2], chances))).toEqual({ evict: [], load: [] });
  });

  test("need a gain above the loss of what they evict, which is read again with its chance", () => {
    const units = [used(2), { layer: 2, expert: 1, wasUsed: true }];
    const chances = { "1/1": 0.6, "2/1": 0.55 };
    // The read gains 6 bytes' time on average and the evicted unit costs 5.5; then only 5 bytes are read in time.
    expect(names(planOf(units, 20, usesAt(0, [2], chances)).load)).toEqual(["1/1"]);
    expect(planOf(units, 20, usesAt(0, [2], chances, { layerReadBytes: 5 }))).toEqual({ evict: [], load: [] });
    expect(names(planOf(units, 30, usesAt(0, [2], chances, { layerReadBytes: 5 })).load)).toEqual(["1/1"]);
  });

  test("are dropped for a layer that has no other room, and after their layer ran without them", () => {
    const read: CachedUnit = { layer: 2, expert: 3, wasUsed: false, isEstimated: true };
    const chances = { "2/3": 0.5, "0/0": 0.4, "0/1": 0.4 };
    // Both other units are expected later, and the read one stays.
    expect(names(planOf([used(0), read, used(1)], 30, usesAt(1, [1], chances)).evict)).toEqual(["0/0"]);
    expect(names(planOf([read], 10, usesAt(1, [1], chances)).evict)).toEqual(["2/3"]);
    // Layer 2 runs without it; its next use is a step away.
    expect(names(planOf([used(0), read], 20, usesAt(2, [1], { ...chances, "2/3": 0.3 })).evict)).toEqual(["2/3"]);
  });

  test("need time: none while other reads fill it, and a chance that outweighs the delay of a needless read", () => {
    const load = (chance: number, limits: Partial<UseForecast["estimates"]>) =>
      names(planOf([], 100, usesAt(0, [], { "1/0": chance }, { leastChance: 0, ...limits })).load);
    expect(load(0.3, { layerReadBytes: 10 })).toEqual(["1/0"]);
    expect(load(1, { layerReadBytes: 10, pendingBytes: 10 })).toEqual([]);
    // A quarter is read in time. A hit saves a quarter of a read, a miss costs three quarters.
    expect(load(0.74, { layerReadBytes: 2.5 })).toEqual([]);
    expect(load(0.76, { layerReadBytes: 2.5 })).toEqual(["1/0"]);
    // Other reads for estimates count, and one for the layer after the next has twice the time.
    const three = { "1/0": 0.9, "1/1": 0.8, "2/0": 0.9 };
    expect(names(planOf([], 100, usesAt(0, [], three, { layerReadBytes: 10 })).load)).toEqual(["1/0", "2/0"]);
    // The running layer waits for its own reads, and for those before them, so they take no time from later ones.
    const limits = { layerReadBytes: 10, pendingBytes: 100 };
    expect(names(planOf([], 100, usesAt(0, [], three, limits)).load)).toEqual([]);
    expect(names(planOf([], 100, usesAt(0, [3], three, limits)).load)).toEqual(["0/3", "1/0", "2/0"]);
  });
});

test.each(EVICTION_POLICIES)("random plans keep every promise, %s", (policy) => {
  for (let seed = 0; seed < 40; seed++) {
    const random = seededRandom(seed);
    const layout: ExpertLayout = { numExperts: 5, layerBytes: [7, 10, 4, 8] };
    const budgetBytes = 30 + randomInteger(random, 100);
    const cache = new ExpertCache({ layout, budgetBytes, policy, seed, lookaheadLayers: 1 });
    for (let run = 0; run < 120; run++) {
      const layer = run % 4;
      const experts = [0, 1, 2, 3, 4].filter(() => random() < 0.4).slice(0, 3);
      const chances = Float32Array.from({ length: 20 }, () => random() ** 2);
      const estimates = {
        chances,
        layersAhead: randomInteger(random, 4),
        leastChance: random(),
        layerReadBytes: 20 * random(),
        pendingBytes: 10 * random(),
      };
      const uses: UseForecast = { layer, running: [[], [], [], []].with(layer, experts as never[]), estimates };
      const before = new Map(cache.state.units.map((unit) => [unitIndex(unit, layout), unit]));
      const next = nextUses(uses, layout, certainUses(uses));
      const slotOf = (unit: CachedUnit | { layer: number; expert: number }) =>
        next.slots[unitIndex(unit, layout)] as number;
      const plan = cache.enterLayer(uses);
      cache.checkIntegrity();
      const estimated = plan.load.filter(({ isEstimated }) => isEstimated);
      const certain = plan.load.slice(0, plan.load.length - estimated.length);
      expect(names(certain)).toEqual(
        names(experts.map((expert) => ({ layer, expert })).filter((unit) => !before.has(unitIndex(unit, layout)))),
      );
      const possible = new Set(names(estimatedUses(uses, next, layout)));
      for (const unit of estimated) {
        expect(possible.has(names([unit])[0] as string)).toBe(true);
        expect(before.has(unitIndex(unit, layout))).toBe(false);
      }
      for (const unit of plan.evict) {
        expect(unit.layer === layer && experts.includes(unit.expert)).toBe(false);
        if (certain.length === 0) expect(slotOf(unit)).toBeGreaterThan(Math.min(...estimated.map(slotOf)));
      }
      if (random() < 0.1 && estimated[0]) {
        cache.failed(estimated[0]);
        cache.checkIntegrity();
      }
      cache.ran(layer, experts);
      cache.checkIntegrity();
    }
    const { uses, hits, loads, wastedLoads, forecast } = cache.counters;
    expect(forecast).toBeDefined();
    // A use is a hit of the cache, a hit of the forecast, or a miss that was read.
    expect((forecast?.hits ?? 0) + (forecast?.misses ?? 0)).toBe(uses - hits);
    expect((forecast?.loads ?? 0) + (forecast?.misses ?? 0)).toBe(loads);
    expect(forecast?.wastedLoads).toBeLessThanOrEqual(wastedLoads);
  }
});

test("without estimates there are no counters of forecasts", () => {
  const cache = new ExpertCache({ layout: LAYOUT, budgetBytes: 100 });
  cache.enterLayer({ layer: 0, running: [[1], [1], [1]] });
  expect("forecast" in cache.counters).toBe(false);
});

test("a cache with exact chances hits more often than least recently used, unit by unit on demand", () => {
  // Experts of each layer are drawn with fixed chances, so the best cache holds the most likely ones.
  const shares = [0.6, 0.2, 0.1, 0.1];
  const hitsOf = (policy: "belady" | "lru"): number => {
    const random = seededRandom(6);
    const cache = new ExpertCache({ layout: LAYOUT, budgetBytes: 50, policy });
    const chances = Float32Array.from({ length: 12 }, (_, index) => shares[index % 4] as number);
    for (let run = 0; run < 6000; run++) {
      const draw = random();
      const expert = draw < 0.6 ? 0 : draw < 0.8 ? 1 : draw < 0.9 ? 2 : 3;
      const running = [[], [], []].with(run % 3, [expert] as never[]);
      cache.enterLayer({ layer: run % 3, running, estimates: { chances, layersAhead: 0, leastChance: 1 } });
      cache.ran(run % 3, [expert]);
    }
    return cache.counters.hits / cache.counters.uses;
  };
  expect(hitsOf("belady")).toBeGreaterThan(hitsOf("lru") + 0.1);
});
