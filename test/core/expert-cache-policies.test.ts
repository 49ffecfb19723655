// Compares policies with plain references and with their known properties.

import { EVICTION_POLICIES, ExpertCache, resolveEvictionPolicy, type EvictionCandidate } from "@readme-moe/core";
import { replaySteps, replayUnits } from "@readme-moe/refactor/simulation";
import { describe, expect, test } from "vitest";
import { plainHits } from "../oracles/plain-eviction.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

const LAYOUT = { numExperts: 7, layerBytes: [1] };

function randomExperts(seed: number, length: number): readonly number[] {
  const random = seededRandom(seed);
  let expert = 0;
  return Array.from({ length }, () => (expert = random() < 0.5 ? expert : randomInteger(random, 7)));
}

describe.each(["lru", "lfu"] as const)("%s", (name) => {
  test("hits as often as a plain reference, unit by unit and in a cache of one layer", () => {
    for (let seed = 0; seed < 10; seed++) {
      const experts = randomExperts(seed, 300);
      for (let capacity = 1; capacity <= 7; capacity++) {
        const expected = plainHits(experts, capacity, name);
        const requests = experts.map((expert) => ({ layer: 0, expert }));
        expect(replayUnits(requests, LAYOUT, capacity, resolveEvictionPolicy(name)).hits).toBe(expected);
        const steps = experts.map((expert) => ({
          tokensPerExpert: Array.from({ length: 7 }, (_, other) => Number(other === expert)),
        }));
        const options = { layout: LAYOUT, budgetBytes: capacity, policy: name, lookaheadLayers: 0 };
        expect(replaySteps(steps, options).hits).toBe(expected);
      }
    }
  });
});

describe("random", () => {
  const candidates = Array.from({ length: 5 }, (_, expert) => ({ layer: 0, expert }) as EvictionCandidate);

  test("chooses each candidate equally often, and the same one for the same seed and decision", () => {
    const policy = resolveEvictionPolicy("random", 4);
    const chosen = Array.from(
      { length: 5000 },
      (_, decision) => policy(candidates, { missingBytes: 1, decision }).expert,
    );
    const again = Array.from(
      { length: 5000 },
      (_, decision) => policy(candidates, { missingBytes: 1, decision }).expert,
    );
    expect(again).toEqual(chosen);
    for (let expert = 0; expert < 5; expert++) {
      const share = chosen.filter((one) => one === expert).length / chosen.length;
      expect(Math.abs(share - 0.2)).toBeLessThan(0.03);
    }
    const other = resolveEvictionPolicy("random", 5);
    expect(chosen.map((_, decision) => other(candidates, { missingBytes: 1, decision }).expert)).not.toEqual(chosen);
  });
});

describe("with less memory than one step needs", () => {
  const layout = { numExperts: 3, layerBytes: [1, 1, 1, 1] };
  const steps = Array.from({ length: 20 }, () => ({ tokensPerExpert: [1, 1, 1] }));

  test("has no hits with lru, and hits what fits with belady", () => {
    const budgetBytes = 9;
    const lru = replaySteps(steps, { layout, budgetBytes, policy: "lru", lookaheadLayers: 0 });
    const belady = replaySteps(steps, { layout, budgetBytes, policy: "belady", lookaheadLayers: 0 });
    expect(lru.hits).toBe(0);
    expect(belady.hits / belady.uses).toBeGreaterThan(0.6);
  });
});

test.each(EVICTION_POLICIES)("%s is deterministic and does not change its candidates", (policy) => {
  const random = seededRandom(2);
  const layout = { numExperts: 5, layerBytes: [3, 2, 1] };
  const steps = Array.from({ length: 40 }, () =>
    layout.layerBytes.map(() => [0, 1, 2, 3, 4].filter(() => random() < 0.4)),
  );
  const run = (): unknown => {
    const resolved = resolveEvictionPolicy(policy, 9);
    const cache = new ExpertCache({
      layout,
      budgetBytes: 17,
      policy: (candidates, context) => {
        const before = structuredClone(candidates);
        const victim = resolved(candidates, context);
        expect(candidates).toEqual(before);
        return victim;
      },
    });
    return steps.flatMap((running, at) =>
      running.map((experts, layer) => {
        const plan = cache.enterLayer({ layer, running, planned: steps[at + 1] });
        cache.ran(layer, experts);
        return plan;
      }),
    );
  };
  expect(run()).toEqual(run());
});
