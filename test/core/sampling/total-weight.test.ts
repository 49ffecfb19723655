import { expect, it } from "vitest";
import { randomInteger, randomNormal, seededRandom } from "../../support/random.ts";
import { rowOf } from "./plain-sampler.ts";
import { resolveSamplingParams } from "@readme-moe/core";
import { boundTotal } from "../../../packages/core/src/sampling/decide.ts";
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
    const ranked = rankedCandidates(row, masked, vocabSize);
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
