// Simulated mixtures with a router in every layer: against a plain server, and beside a pre-gating router.

import { fcfs, type CostModel } from "@readme-moe/core";
import {
  generateMixtureTrace,
  isMixtureTrace,
  preGatedTrace,
  readMixtureTrace,
  ROUTE_KNOWLEDGE,
  simulateMixture,
  writeMixtureTrace,
  type GeneratedMixtureOptions,
  type MixtureSimulationOptions,
  type MixtureTrace,
} from "@readme-moe/refactor/simulation";
import { describe, expect, test } from "vitest";
import { plainLruServer } from "../oracles/plain-lru-server.ts";

const COST: CostModel = { fixedMs: 3, msPerToken: 0.5, msPerExpert: 2, msPerCachedToken: 0.01, loadMsPerByte: 0.02 };
const LIMITS = { maxNumBatchedSeqs: 1000, maxNumBatchedTokens: 100_000, chunkTokens: 16 };
const UNIT = 100;

function drawn(others: Partial<GeneratedMixtureOptions> = {}): MixtureTrace {
  const shape = { numExperts: 8, layerBytes: [UNIT, UNIT, UNIT, UNIT], expertsPerToken: 2, numSequences: 25 };
  const lengths = { meanPromptTokens: 12, meanOutputTokens: 16, arrivalsPerStep: 0.1 };
  return generateMixtureTrace({ ...shape, ...lengths, ...others });
}

function options(others: Partial<MixtureSimulationOptions> = {}): MixtureSimulationOptions {
  const cache = { policy: "belady", budgetBytes: 16 * UNIT, lookaheadLayers: 0 } as const;
  const server = { scheduler: fcfs(), limits: LIMITS, maxNumSeqs: 1000, cost: COST };
  return { ...server, knowledge: "none", cache, ...others };
}

/** The chosen experts of a token in a layer, as a server without a model sees them. */
function expertsAt({ sequences, layout, expertsPerToken }: MixtureTrace) {
  const byId = new Map(sequences.map((sequence) => [sequence.id, sequence]));
  const numLayers = layout.layerBytes.length;
  return (id: string, token: number, layer: number): readonly number[] => {
    const sequence = byId.get(id);
    if (!sequence || (layer === numLayers - 1 && token < sequence.promptTokens - 1)) return [];
    const at = (token * numLayers + layer) * expertsPerToken;
    return Array.from(sequence.routes.subarray(at, at + expertsPerToken));
  };
}

test("agrees with a plain simulation in counts and times", () => {
  for (let seed = 0; seed < 4; seed++) {
    for (const capacity of [8, 12, 20, 32]) {
      const trace = drawn({ seed });
      const budgetBytes = capacity * UNIT;
      const cache = { policy: "lru", budgetBytes, lookaheadLayers: 0 } as const;
      const result = simulateMixture(trace, options({ cache, overlapsReads: false }));
      const sequences = trace.sequences.map((sequence) => ({ ...sequence, numTokens: sequence.routes.length / 8 }));
      const served = { layout: trace.layout, sequences, expertsAt: expertsAt(trace) };
      const { distinct, latencies, durationMs, ...counters } = plainLruServer(served, {
        ...LIMITS,
        budgetBytes,
        cost: COST,
      });
      expect(result).toMatchObject(counters);
      expect(result.steps).toBe(distinct.length);
      expect(result.durationMs).toBeCloseTo(durationMs, 6);
      const mean = Array.from(latencies.values()).reduce((sum, ms) => sum + ms, 0) / latencies.size;
      expect(result.latencyMs.mean).toBeCloseTo(mean, 6);
      expect(result.meanDistinctExperts).toBeCloseTo(distinct.reduce((sum, n) => sum + n, 0) / distinct.length, 9);
      expect(result.readyRatio).toBe(result.hitRatio);
      expect(result.stallMs).toBeCloseTo(counters.bytesRead * COST.loadMsPerByte, 6);
    }
  }
});

describe("knowledge", () => {
  test("of later layers saves reads and waits, and that of a pre-gating router more waits", () => {
    for (const seed of [1, 2, 3]) {
      const trace = drawn({ seed, locality: 0.4, coupling: 0.8, skew: 0.7 });
      const run = (knowledge: MixtureSimulationOptions["knowledge"], policy: "belady" | "lru", others = {}) => {
        const lookaheadLayers = knowledge === "pre-gated" ? 1 : 0;
        const cache = { policy, budgetBytes: 1600, lookaheadLayers };
        return simulateMixture(trace, options({ knowledge, cache, ...others }));
      };
      const lru = run("none", "lru");
      const ranked = run("forecast", "belady", { readAhead: { layersAhead: 0, leastChance: 1 } });
      const forecast = run("forecast", "belady");
      const gated = run("pre-gated", "belady");
      // Evictions by chance save reads. Reading ahead makes some needlessly, and hides others.
      expect(ranked.bytesRead).toBeLessThan(0.8 * lru.bytesRead);
      expect(ranked.forecast?.loads).toBe(0);
      expect(forecast.readyRatio).toBeGreaterThan(ranked.readyRatio + 0.05);
      expect(forecast.stallMs).toBeLessThan(0.8 * ranked.stallMs);
      expect(gated.stallMs).toBeLessThan(forecast.stallMs);
      const counters = forecast.forecast ?? { loads: 0, hits: 0, misses: 0, wastedLoads: 0 };
      expect(counters.hits).toBeGreaterThan(counters.wastedLoads);
      expect(counters.hits + counters.misses).toBe(forecast.uses - forecast.hits);
      expect(lru.forecast).toBeUndefined();
    }
  });

  test("changes nothing when all experts fit, but which reads are awaited", () => {
    const trace = drawn({ seed: 4 });
    const loads = ROUTE_KNOWLEDGE.slice(0, 2).map((knowledge) => {
      const cache = { budgetBytes: 32 * UNIT, lookaheadLayers: 0 };
      return simulateMixture(trace, options({ knowledge, cache }));
    });
    expect(loads.map(({ evictions }) => evictions)).toEqual([0, 0]);
    expect(loads.every(({ loads: count }) => count <= 32)).toBe(true);
  });

  test("is deterministic", () => {
    const trace = drawn({ seed: 5 });
    for (const knowledge of ROUTE_KNOWLEDGE) {
      expect(simulateMixture(trace, options({ knowledge }))).toEqual(simulateMixture(trace, options({ knowledge })));
    }
  });

  test("that does not exist is rejected", () => {
    const knowledge = "forcast" as "forecast";
    expect(() => simulateMixture(drawn(), options({ knowledge }))).toThrow(/`knowledge`.*did you mean "forecast"/);
  });
});

/** Pairs of a token's experts and those of the token before, in every layer of every sequence. */
const pairs = (trace: MixtureTrace) =>
  trace.sequences.flatMap(({ routes }) =>
    Array.from({ length: routes.length / 2 - 4 }, (_, at) => ({
      layer: at % 4,
      before: Array.from(routes.subarray(2 * at, 2 * at + 2)),
      own: Array.from(routes.subarray(2 * at + 8, 2 * at + 10)),
      previous: at % 4 === 0 ? [] : Array.from(routes.subarray(2 * at + 6, 2 * at + 8)),
    })),
  );
const share = (flags: readonly boolean[]): number => flags.filter(Boolean).length / flags.length;

/** Share of experts that the next token uses, too. */
const repeated = (locality: number): number =>
  share(
    pairs(drawn({ locality, coupling: 0, skew: 0 })).flatMap(({ own, before }) => before.map((e) => own.includes(e))),
  );

describe("drawn routes", () => {
  test("have different experts in each layer, the same for a seed", () => {
    const trace = drawn({ seed: 3, skew: 2 });
    for (const { own } of pairs(trace)) expect(new Set(own).size).toBe(2);
    expect(drawn({ seed: 3, skew: 2 })).toEqual(trace);
    expect(drawn({ seed: 4, skew: 2 })).not.toEqual(trace);
  });

  test("repeat the token before as often as asked, beyond chance", () => {
    expect(repeated(1)).toBe(1);
    // Two of eight experts repeat by chance in a quarter of the cases.
    expect(Math.abs(repeated(0) - 0.25)).toBeLessThan(0.02);
    expect(repeated(0.5)).toBeGreaterThan(0.55);
  });

  test("follow the layer before by a fixed map", () => {
    const trace = drawn({ locality: 0, coupling: 1, skew: 0 });
    const followers = new Map<string, Set<string>>();
    for (const { layer, previous, own } of pairs(trace).filter(({ layer: at }) => at > 0)) {
      const key = `${layer} ${previous.toSorted((a, b) => a - b).join(" ")}`;
      followers.set(key, (followers.get(key) ?? new Set()).add(own.toSorted((a, b) => a - b).join(" ")));
    }
    expect(Array.from(followers.values()).every(({ size }) => size === 1)).toBe(true);
  });

  test("use some experts more often, by Zipf's law", () => {
    const trace = drawn({ locality: 0, coupling: 0, skew: 1, numSequences: 60, expertsPerToken: 1 });
    const counts = Array.from({ length: 8 }, () => 0);
    for (const { routes } of trace.sequences) {
      for (let at = 0; at < routes.length; at += 4)
        counts[routes[at] as number] = (counts[routes[at] as number] ?? 0) + 1;
    }
    const [most = 0, second = 0] = counts.toSorted((a, b) => b - a);
    expect(most / second).toBeGreaterThan(1.6);
    expect(most / second).toBeLessThan(2.5);
  });

  test("become those of a pre-gating router with the first layer's experts", () => {
    const trace = drawn({ seed: 6 });
    const gated = preGatedTrace(trace);
    for (const [index, { routes }] of gated.sequences.entries()) {
      const first = trace.sequences[index]?.routes as Int32Array;
      expect(routes).toHaveLength(first.length);
      for (let at = 0; at < routes.length; at++) expect(routes[at]).toBe(first[Math.floor(at / 8) * 8 + (at % 2)]);
    }
  });

  test.each([
    [{ locality: 1.5 }, /`locality`.*from 0 to 1/],
    [{ expertsPerToken: 9 }, /`expertsPerToken`.*from 1 to 8/],
    [{ skw: 1 } as Partial<GeneratedMixtureOptions>, /`skw`.*did you mean `skew`/],
  ])("are refused for %j", (others, message) => {
    expect(() => drawn(others)).toThrow(message);
  });
});

describe("trace files", () => {
  test("are read as they were written, with layers that did not run", () => {
    const trace = drawn({ seed: 2, numSequences: 3 });
    trace.sequences[0]?.routes.fill(-1, 6, 8);
    const text = writeMixtureTrace(trace);
    expect(isMixtureTrace(text)).toBe(true);
    expect(readMixtureTrace(text, "t.jsonl")).toEqual(trace);
    expect(readMixtureTrace(`${text}{"type":"seq`, "t.jsonl")).toEqual(trace);
    expect(isMixtureTrace('{"type":"model","num_experts":7}')).toBe(false);
  });

  const MODEL = '{"type":"mixture","num_experts":4,"experts_per_token":2,"layer_bytes":[1,1]}\n';
  test.each([
    ["", /t.jsonl:1: expected a line of the type `mixture`/],
    ['{"type":"model"}\n', /t.jsonl:1: expected the first line to be of the type `mixture`/],
    ['{"type":"mixture","num_experts":4,"experts_per_token":5,"layer_bytes":[1]}\n', /exceeds the 4 experts/],
    [`${MODEL}{"type":"step"}\n`, /t.jsonl:2: expected `type` to be `sequence`/],
    [
      `${MODEL}{"type":"sequence","id":"a","arrival_step":0,"prompt_tokens":2,"routes":[[0,1,2,3]]}\n`,
      /at least 2 lists of 4/,
    ],
    [`${MODEL}{"type":"sequence","id":"a","arrival_step":0,"prompt_tokens":1,"routes":[[0,1,2,4]]}\n`, /from -1 to 3/],
    [
      `${MODEL}{"type":"sequence","id":"a","arrival_step":0,"prompt_tokens":1,"routes":[[0,1,2,2]]}\n`,
      /2 different experts/,
    ],
    [
      `${MODEL}{"type":"sequence","id":"a","arrival_step":0,"prompt_tokens":1,"routes":[[0,1,2,-1]]}\n`,
      /2 different experts/,
    ],
  ])("that are wrong are refused, naming the line: %j", (text, message) => {
    expect(() => readMixtureTrace(text, "t.jsonl")).toThrow(message);
  });
});
