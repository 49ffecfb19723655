import {
  EVICTION_POLICIES,
  ExpertCache,
  planBudget,
  planReads,
  resolveEvictionPolicy,
  unitIndex,
  usedBytes,
  type EvictionCandidate,
  type EvictionPolicy,
  type EvictionPolicyName,
  type ExpertUnit,
  type StepUses,
  type UseForecast,
} from "@readme-moe/core";
import * as fc from "../support/fast-check.ts";
import { describe, expect, test } from "vitest";
import { randomInteger, seededRandom } from "../support/random.ts";

const LAYOUT = { numExperts: 4, layerBytes: [2, 2, 2] };

/** A policy that returns a copy instead of a candidate. */
const copying: EvictionPolicy = ([first]) => ({ ...(first as EvictionCandidate) });

const nearest: EvictionPolicy = ([first]) => first as EvictionCandidate;

const last: EvictionPolicy = (candidates) => candidates.at(-1) as EvictionCandidate;

/** Uses the same experts in all layers. */
function everyLayer(...experts: readonly number[]): StepUses {
  return LAYOUT.layerBytes.map(() => experts);
}

/** Runs a step whose reads take no time. */
function runStep(cache: ExpertCache, running: StepUses, planned?: StepUses): void {
  for (const [layer, experts] of running.entries()) {
    cache.enterLayer({ layer, running, planned });
    cache.ran(layer, experts);
    cache.checkIntegrity();
  }
}

describe("forgetting an expert", () => {
  test("evicts its units alone, and its number begins as one that was never used", () => {
    const cache = new ExpertCache({ layout: LAYOUT, budgetBytes: 24 });
    runStep(cache, everyLayer(1, 2));
    const layers = Array.from(LAYOUT.layerBytes.keys());
    const evicted = layers.map((layer) => ({ layer, expert: 1, nextUse: Infinity }));
    expect(cache.forget(1).toSorted((a, b) => a.layer - b.layer)).toEqual(evicted);
    cache.checkIntegrity();
    const { units, numUses, lastUses } = cache.state;
    expect(Array.from(units, ({ expert }) => expert)).toEqual(layers.map(() => 2));
    for (const layer of layers) {
      const [gone, kept] = [1, 2].map((expert) => unitIndex({ layer, expert }, LAYOUT));
      expect([numUses[gone ?? 0], lastUses[gone ?? 0], numUses[kept ?? 0]]).toEqual([0, -1, 1]);
    }
    expect(cache.forget(1)).toEqual([]);
    expect(cache.counters.evictions).toBe(layers.length);
  });
});

describe("entering a layer", () => {
  test("reads the layer's units before those of the next layers, as far as uses are certain and units fit", () => {
    const cache = new ExpertCache({ layout: LAYOUT, budgetBytes: 12 });
    const plan = cache.enterLayer({ layer: 0, running: everyLayer(1, 2), planned: everyLayer(3) });
    expect(plan.load.map(({ layer, expert }) => [layer, expert])).toEqual([
      [0, 1],
      [0, 2],
      [1, 1],
      [1, 2],
      [2, 1],
      [2, 2],
    ]);
    expect(plan.evict).toEqual([]);
    expect(cache.enterLayer({ layer: 0, running: everyLayer(1, 2) })).toEqual({ evict: [], load: [] });
  });

  test("reads only on demand without lookahead", () => {
    const cache = new ExpertCache({ layout: LAYOUT, budgetBytes: 24, lookaheadLayers: 0 });
    expect(cache.enterLayer({ layer: 0, running: everyLayer(1) }).load).toEqual([{ layer: 0, expert: 1 }]);
  });

  test("reads nothing because of an estimate, and evicts the unit that is expected last", () => {
    const cache = new ExpertCache({ layout: LAYOUT, budgetBytes: 12, lookaheadLayers: 0 });
    runStep(cache, everyLayer(0, 1));
    const laterSteps = [3, 1, Infinity, Infinity];
    const plan = cache.enterLayer({ layer: 0, running: everyLayer(2), laterSteps });
    expect(plan.load).toEqual([{ layer: 0, expert: 2 }]);
    expect(plan.evict).toEqual([{ layer: 2, expert: 0, nextUse: 3 }]);
  });

  test("keeps units that were read ahead, unless the next layer has no other room", () => {
    const layout = { numExperts: 3, layerBytes: [1, 1, 1, 1] };
    const running = [[0], [1], [0, 1], [2]];
    const resident = { wasUsed: true };
    const awaited = { layer: 3, expert: 2, wasUsed: false };
    const history = { numLayersRun: 4, numUses: new Uint32Array(12), lastUses: new Float64Array(12), numEvictions: 0 };
    const planAt = (layer: number, ...units: readonly ExpertUnit[]) => {
      const cached = [...units.map((unit) => ({ ...unit, ...resident })), awaited];
      const state = { ...history, budgetBytes: cached.length, units: cached };
      return planReads(state, { layer, running }, { layout, policy: last, lookaheadLayers: 1 });
    };
    expect(planAt(0, { layer: 0, expert: 0 })).toEqual({ evict: [], load: [] });
    expect(planAt(1, { layer: 0, expert: 0 })).toMatchObject({ evict: [{ layer: 0, expert: 0 }] });
    // Both units of layer 2 are needed, and there are two places.
    expect(planAt(2, { layer: 2, expert: 0 })).toMatchObject({
      evict: [{ layer: 3, expert: 2 }],
      load: [{ layer: 2, expert: 1 }],
    });
  });

  test("reports the number of steps until an evicted unit is used", () => {
    const cache = new ExpertCache({ layout: LAYOUT, budgetBytes: 6, lookaheadLayers: 0 });
    runStep(cache, everyLayer(0));
    const uses = { running: everyLayer(1), planned: everyLayer(0) };
    expect(cache.enterLayer({ ...uses, layer: 0 }).evict).toEqual([{ layer: 2, expert: 0, nextUse: 1 }]);
    // Layer 0 runs now without expert 0, so its turn comes last.
    const unknown = new ExpertCache({ layout: LAYOUT, budgetBytes: 6, lookaheadLayers: 0 });
    runStep(unknown, everyLayer(0));
    expect(unknown.enterLayer({ layer: 0, running: everyLayer(1) }).evict).toEqual([
      { layer: 0, expert: 0, nextUse: Infinity },
    ]);
  });

  test("rejects a budget that one layer exceeds, naming the bytes that it needs", () => {
    const cache = new ExpertCache({ layout: LAYOUT, budgetBytes: 5 });
    expect(() => cache.enterLayer({ layer: 0, running: everyLayer(0, 1, 2) })).toThrow(
      new RangeError("Expected `budgetBytes` to be at least 6, which layer 0 needs for 3 experts, got `5`"),
    );
  });

  test("does not change the state and is deterministic", () => {
    const cache = new ExpertCache({ layout: LAYOUT, budgetBytes: 8, policy: "random", seed: 3 });
    runStep(cache, everyLayer(0, 1));
    const state = structuredClone(cache.state);
    const uses = { layer: 0, running: everyLayer(2, 3) };
    const options = { layout: LAYOUT, policy: resolveEvictionPolicy("random", 3), lookaheadLayers: 1 };
    const plan = planReads(state, uses, options);
    expect(state).toEqual(cache.state);
    expect(planReads(state, uses, options)).toEqual(plan);
    expect(cache.enterLayer(uses)).toEqual(plan);
  });

  test("keeps the units of smaller layers if one larger unit makes the room", () => {
    const layout = { numExperts: 2, layerBytes: [1, 4] };
    const cache = new ExpertCache({ layout, budgetBytes: 6, policy: "lru", lookaheadLayers: 0 });
    for (const [layer, expert] of [
      [0, 0],
      [0, 1],
      [1, 0],
    ] as const) {
      cache.enterLayer({ layer, running: [[expert], [expert]] });
      cache.ran(layer, [expert]);
    }
    const plan = cache.enterLayer({ layer: 1, running: [[], [1]] });
    expect(plan.evict.map(({ layer, expert }) => [layer, expert])).toEqual([[1, 0]]);
  });
});

describe("changing the budget", () => {
  test("evicts idle units at once when it shrinks, the last needed first", () => {
    const cache = new ExpertCache({ layout: LAYOUT, budgetBytes: 12 });
    runStep(cache, everyLayer(0, 1), everyLayer(0));
    const evicted = cache.setBudget(6, { layer: 3, running: everyLayer(0, 1), planned: everyLayer(0) });
    expect(evicted.map(({ expert }) => expert)).toEqual([1, 1, 1]);
    cache.checkIntegrity();
  });

  test("keeps the units of the running layer when it shrinks, and evicts units that were read ahead", () => {
    const cache = new ExpertCache({ layout: LAYOUT, budgetBytes: 8 });
    const running = everyLayer(0, 1);
    expect(cache.enterLayer({ layer: 0, running }).load).toHaveLength(4);
    const evicted = cache.setBudget(4, { layer: 0, running });
    expect(evicted.map(({ layer }) => layer)).toEqual([1, 1]);
    expect(usedBytes(cache.state, LAYOUT)).toBe(4);
    cache.checkIntegrity();
    cache.ran(0, [0, 1]);
    const next = cache.enterLayer({ layer: 1, running });
    expect(next.evict.map(({ layer }) => layer)).toEqual([0, 0]);
    expect(next.load.map(({ layer }) => layer)).toEqual([1, 1]);
    cache.checkIntegrity();
  });

  test("rejects a budget that is too small for the running step, and keeps the old one", () => {
    const cache = new ExpertCache({ layout: LAYOUT, budgetBytes: 8 });
    expect(() => cache.setBudget(3, { layer: 0, running: everyLayer(0, 1) })).toThrow(RangeError);
    expect(cache.state.budgetBytes).toBe(8);
  });

  test("evicts nothing when it grows", () => {
    const cache = new ExpertCache({ layout: LAYOUT, budgetBytes: 8 });
    runStep(cache, everyLayer(0));
    const options = { layout: LAYOUT, policy: resolveEvictionPolicy("belady") };
    expect(planBudget(cache.state, 80, undefined, options)).toEqual([]);
  });
});

describe("the accounting", () => {
  test("counts every use of a read as a hit but the first", () => {
    const cache = new ExpertCache({ layout: LAYOUT, budgetBytes: 24 });
    for (let step = 0; step < 3; step++) runStep(cache, everyLayer(0, 1));
    expect(cache.counters).toMatchObject({ uses: 18, hits: 12, loads: 6, bytesRead: 12, evictions: 0, wastedLoads: 0 });
    expect(Array.from(cache.missingBytes())).toEqual([0, 0, 6, 6]);
  });

  test("counts a read as wasted if it failed or its unit was evicted unused", () => {
    const cache = new ExpertCache({ layout: LAYOUT, budgetBytes: 4 });
    cache.enterLayer({ layer: 0, running: everyLayer(0) });
    cache.failed({ layer: 1, expert: 0 });
    // The sequence was aborted, and another one runs.
    cache.enterLayer({ layer: 0, running: [[1, 2], [], []] });
    expect(cache.counters).toMatchObject({ loads: 4, wastedLoads: 2, wastedBytes: 4 });
    cache.checkIntegrity();
  });

  test("counts earlier reads as complete when a layer is entered", () => {
    const cache = new ExpertCache({ layout: LAYOUT, budgetBytes: 8 });
    const running = everyLayer(0, 1);
    expect(cache.enterLayer({ layer: 0, running }).load).toHaveLength(4);
    cache.ran(0, [0, 1]);
    // Layer 1 counts as in memory, and layer 0 makes room for layer 2.
    const next = cache.enterLayer({ layer: 1, running });
    expect(next.evict.map(({ layer }) => layer)).toEqual([0, 0]);
    expect(next.load.map(({ layer }) => layer)).toEqual([2, 2]);
    cache.checkIntegrity();
    // An earlier read fails after all and counts as wasted; a read that a layer ran with cannot fail.
    cache.failed({ layer: 1, expert: 1 });
    expect(cache.counters).toMatchObject({ wastedLoads: 1, wastedBytes: 2 });
    expect(() => cache.failed({ layer: 1, expert: 1 })).toThrow("No read of layer 1 of expert 1 can have failed");
    cache.ran(1, [0]);
    expect(() => cache.failed({ layer: 1, expert: 0 })).toThrow("No read of layer 1 of expert 0 can have failed");
    cache.checkIntegrity();
  });

  test("rejects impossible events and options", () => {
    const cache = new ExpertCache({ layout: LAYOUT, budgetBytes: 4 });
    expect(() => cache.failed({ layer: 0, expert: 0 })).toThrow("No read of layer 0 of expert 0 can have failed");
    expect(() => cache.ran(0, [1])).toThrow("Layer 0 of expert 1 ran and is not in memory");
    expect(() => new ExpertCache({ layout: LAYOUT, budgetBytes: -1 })).toThrow("`budgetBytes`");
    expect(() => new ExpertCache({ layout: LAYOUT, budgetBytes: 1, policy: "beladi" as EvictionPolicyName })).toThrow(
      'did you mean "belady"?',
    );
    const broken = new ExpertCache({ layout: LAYOUT, budgetBytes: 2, policy: copying });
    runStep(broken, [[0], [], []]);
    expect(() => broken.enterLayer({ layer: 0, running: everyLayer(1) })).toThrow(
      new TypeError("Expected the eviction policy to return one of its candidates"),
    );
  });
});

const POLICIES = [...EVICTION_POLICIES, nearest] as const;

describe("in random scenarios", () => {
  const scenarios = fc.record({
    seed: fc.nat(),
    numExperts: fc.integer({ min: 1, max: 5 }),
    layerBytes: fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 4 }),
    room: fc.integer({ min: 0, max: 30 }),
    lookaheadLayers: fc.integer({ min: 0, max: 5 }),
    policy: fc.constantFrom(...POLICIES),
    changesBudget: fc.boolean(),
    keepsPlan: fc.boolean(),
  });

  test("keeps the budget, evicts no unit in use, and reads only for certain uses", () => {
    fc.assert(
      fc.property(
        scenarios,
        ({ seed, numExperts, layerBytes, room, policy, lookaheadLayers, changesBudget, keepsPlan }) => {
          const random = seededRandom(seed);
          const layout = { numExperts, layerBytes };
          const least = numExperts * Math.max(...layerBytes);
          const cache = new ExpertCache({ layout, budgetBytes: least + room, policy, lookaheadLayers, seed });
          const someExperts = (): readonly number[] =>
            Array.from({ length: numExperts }, (_, expert) => expert).filter(() => random() < 0.5);
          const someStep = (): StepUses => layerBytes.map(someExperts);
          let running = someStep();

          const check = (uses: UseForecast, before: readonly ExpertUnit[]): void => {
            cache.checkIntegrity();
            expect(usedBytes(cache.state, layout)).toBeLessThanOrEqual(cache.state.budgetBytes);
            const after = new Set(cache.state.units.map((unit) => unitIndex(unit, layout)));
            for (const unit of before) {
              const isInUse = unit.layer === uses.layer && running[unit.layer]?.includes(unit.expert);
              if (isInUse) expect(after.has(unitIndex(unit, layout)), "in use").toBe(true);
            }
          };

          for (let step = 0; step < 6; step++) {
            const planned = someStep();
            for (const [layer, experts] of running.entries()) {
              const uses = { layer, running, planned };
              const before = cache.state.units;
              const plan = cache.enterLayer(uses);
              check(uses, before);
              checkPlan(plan, uses);
              const entered = new Set(cache.state.units.map((unit) => unitIndex(unit, layout)));
              for (const expert of experts) expect(entered).toContain(unitIndex({ layer, expert }, layout));
              if (changesBudget && random() < 0.2) {
                const units = cache.state.units;
                cache.setBudget(least + randomInteger(random, 31), uses);
                check(uses, units);
              }
              cache.ran(layer, experts);
            }
            running = keepsPlan ? planned : someStep();
          }
          if (keepsPlan && !changesBudget) expect(cache.counters.wastedLoads).toBe(0);
        },
      ),
      { numRuns: 600, seed: 7 },
    );
  });
});

/** Checks that every read has a certain use, and that evicted units are needed after a unit that is read. */
function checkPlan({ evict, load }: ReturnType<typeof planReads>, uses: UseForecast): void {
  const slots = load.map((unit) => nextSlot(unit, uses));
  expect(slots).not.toContain(Infinity);
  expect(slots).toEqual(slots.toSorted((a, b) => a - b));
  for (const unit of evict) expect(nextSlot(unit, uses)).toBeGreaterThan(Math.min(...slots));
}

/** Counts the layers until a certain use, one by one. */
function nextSlot({ layer, expert }: ExpertUnit, { layer: from, running, planned }: UseForecast): number {
  for (let slot = 0; slot < 2 * running.length - from; slot++) {
    const at = from + slot;
    const step = at < running.length ? running : planned;
    if (at % running.length === layer && step?.[layer]?.includes(expert)) return slot;
  }
  return Infinity;
}
