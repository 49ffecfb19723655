import {
  EVICTION_POLICIES,
  ExpertCache,
  expertBytes,
  fcfs,
  type CostModel,
  type ExpertTrace,
  type Scheduler,
} from "@readme-moe/core";
import {
  generateTrace,
  replayRecorded,
  replaySteps,
  simulate,
  type SimulationOptions,
} from "@readme-moe/refactor/simulation";
import { describe, expect, test } from "vitest";
import { plainLruServer } from "../oracles/plain-lru-server.ts";

const COST: CostModel = { fixedMs: 3, msPerToken: 0.5, msPerExpert: 2, msPerCachedToken: 0.01, loadMsPerByte: 0.02 };
const LIMITS = { maxNumBatchedSeqs: 1000, maxNumBatchedTokens: 100_000, chunkTokens: 16 };

function drawn(seed: number, layerBytes: readonly number[] = [100, 100, 100]): ExpertTrace {
  const lengths = { meanPromptTokens: 20, meanOutputTokens: 10, arrivalsPerStep: 0.2 };
  return generateTrace({ numExperts: 7, layerBytes, numSequences: 30, seed, ...lengths });
}

function options(cache: SimulationOptions["cache"], others: Partial<SimulationOptions> = {}): SimulationOptions {
  return { scheduler: fcfs(), limits: LIMITS, maxNumSeqs: 1000, cache, cost: COST, ...others };
}

test("agrees with a plain simulation in counts and times", () => {
  for (let seed = 0; seed < 6; seed++) {
    for (const capacity of [7, 10, 17, 21]) {
      const trace = drawn(seed);
      const budgetBytes = capacity * 100;
      const cache = { policy: "lru", budgetBytes, lookaheadLayers: 0 } as const;
      const result = simulate(trace, options(cache, { overlapsReads: false }));
      const byId = new Map(trace.sequences.map((sequence) => [sequence.id, sequence.experts]));
      const served = {
        layout: trace.layout,
        sequences: trace.sequences.map((sequence) => ({ ...sequence, numTokens: sequence.experts.length })),
        expertsAt: (id: string, token: number) => [byId.get(id)?.[token] as number],
      };
      const { distinct, latencies, durationMs, ...counters } = plainLruServer(served, {
        ...LIMITS,
        budgetBytes,
        cost: COST,
      });
      expect(result).toMatchObject(counters);
      expect(result.steps.map((step) => step.tokensPerExpert.filter((tokens) => tokens > 0).length)).toEqual(distinct);
      expect(result.meanDistinctExperts).toBeCloseTo(mean(distinct), 9);
      expect(result.durationMs).toBeCloseTo(durationMs, 6);
      expect(result.latencyMs.mean).toBeCloseTo(mean([...latencies.values()]), 6);
      // The second longest of 30.
      expect(result.latencyMs.p95).toBeCloseTo([...latencies.values()].sort((a, b) => b - a)[1] as number, 6);
      const perToken = trace.sequences.map(
        ({ id, experts, promptTokens }) => (latencies.get(id) as number) / (experts.length - promptTokens + 1),
      );
      expect(result.normalizedLatencyMs.mean).toBeCloseTo(mean(perToken), 6);
      expect(result.hitRatio).toBe(counters.hits / counters.uses);
    }
  }
});

describe("reads beside computation", () => {
  const trace: ExpertTrace = {
    layout: { numExperts: 1, layerBytes: [30, 30] },
    sequences: [{ id: "a", arrivalStep: 4, promptTokens: 1, experts: [0, 0] }],
    steps: [],
  };
  const cost = { fixedMs: 10, msPerToken: 0, msPerExpert: 0, msPerCachedToken: 0, loadMsPerByte: 0.1 };

  test("are hidden while the previous layer runs", () => {
    // The first layer waits for 3 ms and runs for 5; meanwhile the second one is read; the next step reads nothing.
    const result = simulate(trace, options({ budgetBytes: 60 }, { cost }));
    expect(result).toMatchObject({ stallMs: 3, durationMs: 23, loads: 2, hits: 2, latencyMs: { mean: 23, p95: 23 } });
    expect(result.normalizedLatencyMs.mean).toBe(11.5);
    expect(result.steps.map(({ step }) => step)).toEqual([4, 5]);
  });

  test("are not hidden on demand, or if reads block computation", () => {
    const onDemand = simulate(trace, options({ budgetBytes: 60, lookaheadLayers: 0 }, { cost }));
    expect(onDemand).toMatchObject({ stallMs: 6, durationMs: 26 });
    const stopped = simulate(trace, options({ budgetBytes: 60 }, { cost, overlapsReads: false }));
    expect(stopped).toMatchObject({ stallMs: 6, durationMs: 26 });
  });
});

describe("bounds", () => {
  test.each(EVICTION_POLICIES)("are not exceeded by %s on demand", (policy) => {
    for (let seed = 0; seed < 4; seed++) {
      for (const capacity of [3, 4, 5]) {
        const trace = drawn(seed);
        const cache = { policy, seed, budgetBytes: capacity * expertBytes(trace.layout), lookaheadLayers: 0 };
        const { hitRatio, bounds } = simulate(trace, options(cache));
        expect(hitRatio).toBeLessThanOrEqual(bounds.beladyHitRatio);
        expect(bounds.horizonHitRatio).toBeLessThanOrEqual(bounds.beladyHitRatio);
        // Tokens that the next step samples are unknown beforehand, but known to the horizon.
        if (policy !== "belady") expect(hitRatio).toBeLessThan(bounds.horizonHitRatio);
        else expect(hitRatio).toBeGreaterThan(bounds.horizonHitRatio - 0.03);
      }
    }
  });

  test("are equal if everything fits", () => {
    const trace = drawn(1);
    const { hitRatio, bounds, loads } = simulate(trace, options({ budgetBytes: 2100 }));
    expect(loads).toBeLessThanOrEqual(21);
    expect(bounds).toEqual({ horizonHitRatio: hitRatio, beladyHitRatio: hitRatio });
  });
});

test("replays the steps of a simulation with the same counters", () => {
  const trace = drawn(2);
  const cache = { policy: "lfu", budgetBytes: 1000, lookaheadLayers: 0 } as const;
  const { steps, uses, hits, loads, evictions, bytesRead } = simulate(trace, options(cache));
  expect(replaySteps(steps, { ...cache, layout: trace.layout })).toMatchObject({
    uses,
    hits,
    loads,
    evictions,
    bytesRead,
  });
});

test("replays recorded runs with the same counters", () => {
  const trace = drawn(2);
  const { layout } = trace;
  const everyLayer = (experts: readonly number[]) => layout.layerBytes.map(() => experts);
  const runs = [[0, 3], [1], [0, 2, 5], [5, 6], [1, 2, 3]].map((experts, at) => ({
    experts,
    planned: at % 2 ? [2] : [],
  }));
  for (const policy of EVICTION_POLICIES) {
    const cacheOptions = { layout, budgetBytes: 900, policy };
    const cache = new ExpertCache(cacheOptions);
    const laterSteps = [2, 1, 3, 2, Infinity, 1, 1];
    for (const { experts, planned } of runs) {
      const uses = { running: everyLayer(experts), planned: everyLayer(planned), laterSteps };
      for (const layer of layout.layerBytes.keys()) {
        cache.enterLayer({ ...uses, layer });
        cache.ran(layer, experts);
      }
    }
    expect(replayRecorded([{ runs, laterSteps }], cacheOptions)).toEqual(cache.counters);
    expect(cache.counters.evictions).toBeGreaterThan(0);
  }
});

test("lets sequences without KV memory wait in order of arrival", () => {
  const trace = drawn(3);
  const alone = simulate(trace, options({ budgetBytes: 2100 }, { maxNumSeqs: 1 }));
  const together = simulate(trace, options({ budgetBytes: 2100 }));
  const tokens = trace.sequences.reduce((sum, { experts }) => sum + experts.length, 0);
  for (const { steps } of [alone, together]) {
    expect(steps.flatMap(({ tokensPerExpert }) => tokensPerExpert).reduce((sum, count) => sum + count, 0)).toBe(tokens);
  }
  expect(alone.steps.length).toBeGreaterThan(together.steps.length);
  expect(alone.meanDistinctExperts).toBeLessThan(together.meanDistinctExperts);
});

test("passes missing bytes, costs and waits to the scheduler", () => {
  const trace = drawn(4);
  const seen: Parameters<Scheduler>[0][] = [];
  const scheduler: Scheduler = (state) => {
    seen.push(state);
    return fcfs()(state);
  };
  simulate(trace, options({ budgetBytes: 900 }, { scheduler }));
  expect(Array.from(seen[0]?.missingBytes ?? [])).toEqual(Array.from({ length: 7 }, () => 300));
  for (const { missingBytes, cost } of seen) {
    expect(cost).toBe(COST);
    expect(Array.from(missingBytes).reduce((sum, bytes) => sum + bytes, 0)).toBeGreaterThanOrEqual(2100 - 900);
  }
});

test("rejects a scheduler that breaks its contract and a cache that is too small", () => {
  const trace = drawn(5);
  const run =
    (scheduler: Scheduler, budgetBytes = 2100) =>
    () =>
      simulate(trace, options({ budgetBytes }, { scheduler }));
  expect(run(() => [])).toThrow("Expected the scheduler to choose at least one sequence, got none");
  expect(run(() => [{ id: "nobody", numTokens: 1 }])).toThrow("got `nobody`");
  expect(run(({ sequences }) => [{ id: sequences[0]?.id ?? "", numTokens: 1000 }])).toThrow(RangeError);
  expect(run(fcfs(), 100)).toThrow("Expected `budgetBytes` to be at least");
});

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
