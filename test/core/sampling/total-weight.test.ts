import { expect, it } from "vitest";
import { randomInteger, randomNormal, seededRandom } from "../../support/random.ts";
import { rowOf } from "./plain-sampler.ts";
import { resolveSamplingParams } from "@readme-moe/core";
import { boundTotal } from "../../../packages/core/src/sampling/sample.ts";
import { rankedCandidates } from "../../../packages/core/src/sampling/ranking.ts";

it("bounds contain the total weight at any temperature, for any candidates and masks", () => {
  const random = seededRandom(11);
  for (let round = 0; round < 2000; round++) {
    const vocabSize = 2 + randomInteger(random, 400);
    const spread = 10 ** (random() * 3 - 1);
    const offset = (random() - 0.5) * 200;
    const logits = Float32Array.from({ length: vocabSize }, () =>
      random() < 0.1 ? -Infinity : offset + randomNormal(random) * spread,
    );
    const masked = new Set(Array.from({ length: randomInteger(random, 4) }, () => randomInteger(random, vocabSize)));
    const temperature = 10 ** (random() * 3 - 1.5);
    const row = rowOf(logits, 1 + randomInteger(random, Math.min(vocabSize, 64)), false);
    const ranked = rankedCandidates(row, masked, vocabSize - masked.size);
    if (!(ranked.logits[0]! > -Infinity)) continue;

    const { low, high } = boundTotal(row, ranked, resolveSamplingParams({ temperature }, { vocabSize }), masked.size);
    const best = ranked.logits[0] as number;
    const total = logits.reduce(
      (sum, logit, id) => (masked.has(id) ? sum : sum + Math.exp((logit - best) / temperature)),
      0,
    );
    expect(low).toBeLessThan(total);
    expect(high).toBeGreaterThan(total);
  }
});

it("bounds are as close as the log-sum-exp at temperature 1, and as the tail allows at others", () => {
  const logits = Float32Array.from({ length: 1000 }, (_, id) => -id / 5);
  const widthAt = (temperature: number): number => {
    const params = resolveSamplingParams({ temperature }, { vocabSize: 1000 });
    const row = rowOf(logits, 20, false);
    const { low, high } = boundTotal(row, rankedCandidates(row, new Set(), 1000), params, 0);
    return high / low - 1;
  };
  expect(widthAt(1)).toBeLessThan(2e-4);
  expect(widthAt(0.5)).toBeLessThan(0.02);
  expect(widthAt(1.5)).toBeLessThan(1);
});

it.each([0.5, 1, 2, 10])("bounds leave out masked tokens, seen or not, at temperature %d", (temperature) => {
  const vocabSize = 100;
  // All tokens but the best are equal, so the last candidate's weight is that of the whole tail.
  const logits = Float32Array.from({ length: vocabSize }, (_, id) => (id === 0 ? 0 : -1));
  for (const numCandidates of [1, 5, 99, 100]) {
    const row = rowOf(logits, numCandidates, false);
    for (const numMasked of [0, 1, 40, 99]) {
      const masked = new Set(Array.from({ length: numMasked }, (_, index) => vocabSize - 1 - index));
      const ranked = rankedCandidates(row, masked, vocabSize - masked.size);
      const params = resolveSamplingParams({ temperature }, { vocabSize });
      const { low, high } = boundTotal(row, ranked, params, numMasked);
      const total = 1 + (99 - numMasked) * Math.exp(-1 / temperature);
      expect(low).toBeLessThanOrEqual(total);
      expect(high).toBeGreaterThanOrEqual(total);
      // With one candidate the tail's weights may be as large as the best one's.
      if (numCandidates > 1) expect(high / total).toBeLessThan(1.001);
    }
  }
});

it("bounds are numbers if the tail is nothing beside the best at temperature 1", () => {
  const logits = Float32Array.from({ length: 50 }, (_, id) => (id === 0 ? 0 : -2000));
  const row = rowOf(logits, 3, false);
  for (const temperature of [0.1, 1, 100, 1000]) {
    const params = resolveSamplingParams({ temperature }, { vocabSize: 50 });
    const { low, high } = boundTotal(row, rankedCandidates(row, new Set(), 50), params, 0);
    const total = 1 + 49 * Math.exp(-2000 / temperature);
    expect(low).toBeLessThanOrEqual(total);
    expect(low).toBeGreaterThan(0.99);
    expect(high).toBeGreaterThanOrEqual(total);
  }
});
