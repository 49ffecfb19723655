// Compares Belady's rule with the optimum, found by trying everything.

import { ExpertCache, resolveEvictionPolicy, type ExpertLayout, type StepUses } from "@readme-moe/core";
import { replayUnits } from "@readme-moe/refactor/simulation";
import { describe, expect, test } from "vitest";
import { leastBytesRead } from "../oracles/optimal-reads.ts";

const belady = resolveEvictionPolicy("belady");

describe("with one unit after the other", () => {
  test.each([
    { numUnits: 3, length: 8, budgets: [1, 2] },
    { numUnits: 4, length: 6, budgets: [2, 3] },
  ])("reads the minimum for all sequences of $length requests of $numUnits units", ({ numUnits, length, budgets }) => {
    const layout = { numExperts: numUnits, layerBytes: [1] };
    const bytes = Array.from({ length: numUnits }, () => 1);
    for (const experts of allWords(numUnits, length)) {
      const requests = experts.map((expert) => ({ layer: 0, expert }));
      const wanted = experts.map((expert) => [expert]);
      for (const budget of budgets) {
        const { bytesRead, hits } = replayUnits(requests, layout, budget, belady);
        const least = leastBytesRead(wanted, bytes, budget);
        if (bytesRead !== least) expect({ experts, budget, bytesRead }).toEqual({ experts, budget, bytesRead: least });
        expect(hits + bytesRead).toBe(length);
      }
    }
  });

  test("reads slightly more than the minimum if sizes differ", () => {
    const layout = { numExperts: 1, layerBytes: [1, 2, 3, 4] };
    const excess: number[] = [];
    for (const layers of allWords(4, 6)) {
      const requests = layers.map((layer) => ({ layer, expert: 0 }));
      for (const budget of [4, 5, 6, 7]) {
        const { bytesRead } = replayUnits(requests, layout, budget, belady);
        const least = leastBytesRead(
          layers.map((layer) => [layer]),
          layout.layerBytes,
          budget,
        );
        excess.push(bytesRead / least - 1);
      }
    }
    expectSmall(excess, 0.375);
  });
});

describe("with the layers of two known steps", () => {
  const numLayers = 3;
  const subsets = [[], [0], [1], [0, 1]];
  const steps: readonly StepUses[] = allWords(4, numLayers).map((word) => word.map((at) => subsets[at] as number[]));

  test("reads the minimum on demand, whatever layers need", () => {
    const layout = { numExperts: 2, layerBytes: [1, 1, 1] };
    for (const { running, planned } of pairsOf(steps)) {
      for (const budget of [2, 3, 4]) {
        const bytesRead = bytesReadBy(running, planned, layout, budget);
        const least = leastOf(running, planned, layout, budget);
        if (bytesRead !== least)
          expect({ running, planned, budget, bytesRead }).toEqual({ running, planned, budget, bytesRead: least });
      }
    }
  });

  test("reads slightly more than the minimum if layers differ in size", () => {
    const layout = { numExperts: 2, layerBytes: [1, 2, 3] };
    const excess: number[] = [];
    for (const { running, planned } of pairsOf(steps)) {
      for (const budget of [6, 7, 8]) {
        const least = leastOf(running, planned, layout, budget);
        if (least > 0) excess.push(bytesReadBy(running, planned, layout, budget) / least - 1);
      }
    }
    expectSmall(excess, 0.125);
  });
});

/** Runs two steps from an empty cache. */
function bytesReadBy(running: StepUses, planned: StepUses, layout: ExpertLayout, budgetBytes: number): number {
  const cache = new ExpertCache({ layout, budgetBytes, policy: "belady", lookaheadLayers: 0 });
  for (const uses of [{ running, planned }, { running: planned }]) {
    for (const [layer, experts] of uses.running.entries()) {
      cache.enterLayer({ ...uses, layer });
      cache.ran(layer, experts);
    }
  }
  return cache.counters.bytesRead;
}

function leastOf(running: StepUses, planned: StepUses, layout: ExpertLayout, budgetBytes: number): number {
  const { numExperts, layerBytes } = layout;
  const wanted = [running, planned].flatMap((step) =>
    step.map((experts, layer) => experts.map((expert) => layer * numExperts + expert)),
  );
  const bytes = layerBytes.flatMap((size) => Array.from({ length: numExperts }, () => size));
  return leastBytesRead(wanted, bytes, budgetBytes);
}

function pairsOf(steps: readonly StepUses[]): readonly { running: StepUses; planned: StepUses }[] {
  return steps.flatMap((running) => steps.map((planned) => ({ running, planned })));
}

/** Lists all lists of `length` numbers in `[0, size)`. */
function allWords(size: number, length: number): readonly (readonly number[])[] {
  if (length === 0) return [[]];
  return allWords(size, length - 1).flatMap((word) => Array.from({ length: size }, (_, next) => [...word, next]));
}

/**
 * If sizes differ, choosing what to keep is a packing problem, and the rule only looks at times. It misses the minimum
 * in 2 to 3 % of these cases, by 0.3 % of the bytes in the mean over all cases, and by `most` in the worst one.
 */
function expectSmall(excess: readonly number[], most: number): void {
  expect(Math.min(...excess)).toBeGreaterThanOrEqual(0);
  expect(Math.max(...excess)).toBeCloseTo(most, 9);
  expect(excess.filter((share) => share > 0).length / excess.length).toBeLessThan(0.03);
  expect(excess.reduce((sum, share) => sum + share, 0) / excess.length).toBeLessThan(0.004);
}
