import { describe, expect, test } from "vitest";
import {
  evaluateRoutes,
  paperTargets,
  routerTargets,
  windowMeans,
} from "../../packages/refactor/src/router-training/routes.ts";
import { RouterBatches } from "../../packages/refactor/src/router-training/router-trainer.ts";
import { addEvidence, projectEmbedding } from "../../packages/refactor/src/router-training/router-start.ts";
import { randomInteger, randomNormal, seededRandom } from "../support/random.ts";

const SOFT = { numExperts: 3, isGiven: false, temperature: 0.5, localityTokens: 1 } as const;

describe("figures of routes", () => {
  test("are those of a small case computed by hand", () => {
    const costs = Float32Array.of(0, 1, 2, 1, 0, 2, 4, 2, 0);
    const figures = evaluateRoutes(
      [
        { experts: [0, 0, 2], costs },
        { experts: [1], costs: Float32Array.of(1, 3, 2) },
      ],
      3,
    );
    expect(figures.tokens).toBe(4);
    expect(figures.cost).toBe((0 + 1 + 0 + 3) / 4);
    expect(figures.oracleCost).toBe((0 + 0 + 0 + 1) / 4);
    expect(figures.textOracleCost).toBe((3 + 1) / 4); // the second expert for the first text, the first for the other
    expect(figures.singleCost).toBe(6 / 4);
    expect(figures.randomCost).toBe((12 + 6) / 3 / 4);
    expect(figures.regret).toBeCloseTo((1 - 0.25) / (1.5 - 0.25), 12);
    expect(figures.accuracy).toBe(2 / 4);
    expect(figures.locality).toBe(1 / 2);
    expect(figures.shares).toEqual([0.5, 0.25, 0.25]);
  });

  test("order oracle, single and random choices correctly for any costs", () => {
    const random = seededRandom(3);
    for (let round = 0; round < 50; round++) {
      const texts = Array.from({ length: 3 }, () => {
        const experts = Array.from({ length: 1 + randomInteger(random, 9) }, () => randomInteger(random, 4));
        return { experts, costs: Float32Array.from({ length: experts.length * 4 }, () => randomNormal(random)) };
      });
      const { oracleCost, textOracleCost, singleCost, randomCost, cost, shares, locality } = evaluateRoutes(texts, 4);
      expect(oracleCost).toBeLessThanOrEqual(textOracleCost);
      expect(textOracleCost).toBeLessThanOrEqual(singleCost);
      expect(singleCost).toBeLessThanOrEqual(randomCost + 1e-12);
      expect(cost).toBeGreaterThanOrEqual(oracleCost);
      expect(shares.reduce((sum, share) => sum + share, 0)).toBeCloseTo(1, 12);
      const isKept = texts.flatMap(({ experts }) => experts.slice(1).map((expert, index) => expert === experts[index]));
      expect(isKept.length).toBeGreaterThan(0);
      expect(locality).toBeCloseTo(isKept.filter(Boolean).length / isKept.length, 12);
      const best = texts.map(({ costs }) => ({ costs, experts: bestExperts(costs) }));
      expect(evaluateRoutes(best, 4)).toMatchObject({ regret: 0, accuracy: 1 });
    }
  });

  test("require tokens, and the costs of all of them", () => {
    expect(() => evaluateRoutes([], 2)).toThrow(/at least one token/);
    expect(() => evaluateRoutes([{ experts: [0], costs: new Float32Array(3) }], 2)).toThrow(/1 x 2 values, got 3/);
  });
});

describe("targets", () => {
  const example = { tokenIds: Int32Array.of(0, 1), costs: Float32Array.of(0, 1, 2, 3, 0, 0) };

  test("are soft minima of costs", () => {
    const [rows] = routerTargets([example], SOFT);
    // The best expert saves 1 against the mean expert, both times.
    const first = [0, 1, 2].map((cost) => Math.exp(-cost / 0.5));
    const sum = first.reduce((a, b) => a + b, 0);
    first.forEach((value, i) => expect(rows![i]).toBeCloseTo(value / sum, 6));
    expect(rows![3]! + rows![4]! + rows![5]!).toBeCloseTo(1, 6);
  });

  test("do not depend on the scale of costs, nor on a constant added to all experts of a token", () => {
    const [rows] = routerTargets([example], SOFT);
    const costs = example.costs.map((cost, i) => 100 * cost + (i < 3 ? 7 : -9));
    const [scaled] = routerTargets([{ ...example, costs }], SOFT);
    scaled!.forEach((value, i) => expect(value).toBeCloseTo(rows![i]!, 5));
    const [even] = routerTargets([{ ...example, costs: new Float32Array(6) }], SOFT);
    even!.forEach((value) => expect(value).toBeCloseTo(1 / 3, 6));
  });

  test("of the paper mix smoothed labels and a quarter of soft ones like the official loss", () => {
    const scores = Float32Array.of(0.5, 0.4, 0.1, 0.2, 0.2, 0.2);
    const costs = paperTargets(scores, 3).map((share) => -share);
    const [rows] = routerTargets([{ ...example, costs }], { ...SOFT, isGiven: true });
    const soft = [0.5, 0.4, 0.1].map((score) => Math.exp(10 * score));
    const sum = soft.reduce((a, b) => a + b, 0);
    const expected = soft.map((value, i) => 0.75 * (0.5 / 3 + (i === 0 ? 0.5 : 0)) + (0.25 * value) / sum);
    expected.forEach((value, i) => expect(rows![i]).toBeCloseTo(value, 6));
    expect(rows![3]! + rows![4]! + rows![5]!).toBeCloseTo(1, 6);
  });

  test("average over windows of the given size, cut off at the ends", () => {
    const random = seededRandom(5);
    const rows = Float32Array.from({ length: 7 * 2 }, () => randomNormal(random));
    for (const size of [1, 2, 3, 20]) {
      const found = windowMeans(rows, 2, size);
      for (let row = 0; row < 7; row++) {
        const inside = [0, 1, 2, 3, 4, 5, 6].filter(
          (at) => at >= row - Math.floor((size - 1) / 2) && at <= row + Math.floor(size / 2),
        );
        const mean = inside.reduce((sum, at) => sum + rows[at * 2 + 1]!, 0) / inside.length;
        expect(found[row * 2 + 1]).toBeCloseTo(mean, 5);
      }
    }
  });
});

describe("batches", () => {
  const lengths = [100, 7, 33, 250];
  // A token's id names its example and place; its target is its id plus one.
  const examples = lengths.map((length, index) => ({
    tokenIds: Int32Array.from({ length }, (_, at) => index * 1000 + at),
    costs: new Float32Array(length),
  }));
  const targets = examples.map(({ tokenIds }) => Float32Array.from(tokenIds, (id) => id + 1));
  const options = { shape: { sequences: 4, tokens: 32 }, numExperts: 1, replacedShare: 0, seed: 1 };

  test("are crops of examples with their targets, and depend on the step but not on the order of calls", () => {
    const [forward, backward] = [
      new RouterBatches(examples, targets, options),
      new RouterBatches(examples, targets, options),
    ];
    const steps = [0, 1, 2, 3, 4, 5, 6, 7];
    const made = steps.map((step) => forward.batch(step));
    expect(
      steps
        .toReversed()
        .map((step) => backward.batch(step))
        .toReversed(),
    ).toEqual(made);
    for (const { tokenIds, targets: rows } of made) {
      for (let start = 0; start < tokenIds.length; start += 32) {
        const ids = tokenIds.subarray(start, start + 32);
        const length = Math.min(32, lengths[Math.floor(ids[0]! / 1000)]!);
        for (let at = 0; at < 32; at++) {
          expect(ids[at]).toBe(at < length ? ids[0]! + at : 0);
          expect(rows[start + at]).toBe(at < length ? ids[0]! + at + 1 : 0);
        }
      }
    }
  });

  test("cover all tokens, including the ends, and longer texts more often", () => {
    const batches = new RouterBatches(examples, targets, options);
    const seen = new Set<number>();
    const starts = new Map<number, number>();
    for (let step = 0; step < 300; step++) {
      const { tokenIds, targets: rows } = batches.batch(step);
      tokenIds.forEach((id, i) => rows[i]! > 0 && seen.add(id));
      for (let start = 0; start < tokenIds.length; start += 32) {
        const example = Math.floor(tokenIds[start]! / 1000);
        starts.set(example, (starts.get(example) ?? 0) + 1);
      }
    }
    expect(seen.size).toBe(100 + 7 + 33 + 250);
    expect(starts.get(3)! / starts.get(1)!).toBeCloseTo(8, 0);
  });

  test("replace the given share of tokens, and no targets", () => {
    const replaced = new RouterBatches(examples, targets, { ...options, replacedShare: 0.25 });
    let [changed, count] = [0, 0];
    for (let step = 0; step < 100; step++) {
      const { tokenIds, targets: rows } = replaced.batch(step);
      rows.forEach((target, i) => {
        if (target === 0) return;
        count++;
        if (tokenIds[i] !== target - 1) changed++;
      });
    }
    expect(changed / count).toBeGreaterThan(0.22);
    expect(changed / count).toBeLessThan(0.27);
  });
});

describe("the embedding before training", () => {
  const shape = { vocabSize: 60, numExperts: 2, embeddingSize: 8 };

  test.each([16, 8, 4])("keeps the geometry of an embedding of size %i as far as possible", async (size) => {
    const random = seededRandom(6);
    const values = Float32Array.from({ length: 60 * size }, () => 3 + randomNormal(random));
    const table = await projectEmbedding({ values, size }, shape, 1, 1);
    expect(table.length).toBe(60 * 8);
    expect(table.reduce((sum, value) => sum + value ** 2, 0) / table.length).toBeCloseTo(1, 3);
    for (let column = 0; column < 8; column++) {
      const mean = table.filter((_, i) => i % 8 === column).reduce((sum, value) => sum + value, 0) / 60;
      expect(Math.abs(mean)).toBeLessThan(1e-5);
    }
    if (size > 8) return;
    // A rotation scales all distances by the same factor.
    const ratios = [1, 2, 3, 4].map((id) => distance(table, 8, 0, id) / distance(values, size, 0, id));
    for (const ratio of ratios) expect(ratio).toBeCloseTo(ratios[0]!, 4);
  });

  test("has the evidence of a token's costs, less for rare tokens, and keeps the other dimensions", () => {
    const table = new Float32Array(60 * 8).fill(7);
    const tokenIds = Int32Array.of(1, 1, 1, 1, 2, 3, 3, 3, 3, 3);
    const targets = Float32Array.from(tokenIds, (id) => (id < 3 ? 1 : 0)).reduce<number[]>(
      (all, p) => [...all, p, 1 - p],
      [],
    );
    addEvidence(table, [{ tokenIds, costs: new Float32Array(20) }], [Float32Array.from(targets)], shape);
    const evidence = (id: number): readonly number[] => Array.from(table.slice(id * 8 + 6, id * 8 + 8));
    expect(evidence(1)[0]).toBeGreaterThan(evidence(2)[0]!);
    expect(evidence(2)[0]).toBeGreaterThan(0.1);
    expect(evidence(3)[1]).toBeGreaterThan(evidence(2)[0]!);
    expect(evidence(1)[0]! + evidence(1)[1]!).toBeCloseTo(0, 5);
    evidence(50).forEach((value) => expect(value).toBeCloseTo(0, 6));
    expect(Array.from(table.slice(0, 6))).toEqual([7, 7, 7, 7, 7, 7]);
  });
});

function bestExperts(costs: Float32Array): number[] {
  return Array.from({ length: costs.length / 4 }, (_, token) => {
    const own = [...costs.subarray(token * 4, token * 4 + 4)];
    return own.indexOf(Math.min(...own));
  });
}

function distance(rows: Float32Array, width: number, a: number, b: number): number {
  let sum = 0;
  for (let i = 0; i < width; i++) sum += (rows[a * width + i]! - rows[b * width + i]!) ** 2;
  return Math.sqrt(sum);
}
