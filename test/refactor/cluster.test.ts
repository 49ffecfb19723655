import { assert, integer, nat, property } from "../support/fast-check.ts";
import { describe, expect, test } from "vitest";
import { clusterTexts } from "../../packages/refactor/src/experts/cluster.ts";
import { seededRandom } from "../support/random.ts";

/** Texts of `kinds` kinds, each with neurons of its own in every layer, and noise. */
function texts(count: number, kinds: number, noise: number, seed: number): Float32Array[][] {
  const random = seededRandom(seed);
  return Array.from({ length: count }, (_, text) =>
    Array.from({ length: 3 }, (_layer, layer) =>
      Float32Array.from(
        { length: 12 },
        (_neuron, neuron) => ((neuron + layer) % kinds === text % kinds ? 1 : 0) + noise * random(),
      ),
    ),
  );
}

describe("clusters of texts", () => {
  test("are the kinds of text, without a start", () => {
    const initial = Array.from({ length: 30 }, () => 0);
    const { assignment } = clusterTexts(texts(30, 3, 0.1, 1), initial, { numClusters: 3, size: 4 });
    for (let text = 3; text < 30; text++) expect(assignment[text]).toBe(assignment[text % 3]);
    expect(new Set(assignment).size).toBe(3);
  });

  test("correct a start with mixed kinds", () => {
    const initial = Array.from({ length: 30 }, (_, text) => (text < 6 ? (text + 1) % 3 : text % 3));
    const { assignment, kept } = clusterTexts(texts(30, 3, 0.1, 2), initial, { numClusters: 3, size: 4 });
    expect(assignment).toEqual(Array.from({ length: 30 }, (_, text) => text % 3));
    expect(kept.at(-1)).toBeGreaterThan(kept[0] as number);
  });

  test("are never worse than the start, and the same for the same texts", () => {
    assert(
      property(
        integer({ min: 2, max: 20 }),
        integer({ min: 1, max: 5 }),
        integer({ min: 1, max: 12 }),
        nat(1000),
        (count, numClusters, size, seed) => {
          const random = seededRandom(seed);
          const all = texts(count, 1 + (seed % 4), 2, seed);
          const initial = all.map(() => Math.floor(random() * numClusters));
          const { assignment, kept } = clusterTexts(all, initial, { numClusters, size });
          expect(assignment).toHaveLength(count);
          for (let round = 1; round < kept.length; round++)
            expect(kept[round]).toBeGreaterThanOrEqual((kept[round - 1] as number) - 1e-6);
          expect(clusterTexts(all, initial, { numClusters, size })).toEqual({ assignment, kept });
        },
      ),
    );
  });

  test("keep a good start", () => {
    const initial = Array.from({ length: 12 }, (_, text) => text % 3);
    expect(clusterTexts(texts(12, 3, 0.05, 3), initial, { numClusters: 3, size: 4 }).assignment).toEqual(initial);
  });
});
