import {
  DEFAULT_COST_MODEL,
  predictStepMs,
  refineCostModel,
  type CostModel,
  type RefinedCostModel,
  type StepWork,
} from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import { randomInteger, randomNormal, seededRandom } from "../support/random.ts";

const TRUE: CostModel = {
  fixedMs: 30,
  msPerToken: 2.5,
  msPerExpert: 4,
  msPerCachedToken: 0.01,
  loadMsPerByte: 3e-7,
};

function randomWork(random: () => number): StepWork {
  const [decodes, chunks] = [randomInteger(random, 17), randomInteger(random, 3)];
  return {
    tokens: 1 + decodes + 128 * chunks,
    distinctExperts: 1 + randomInteger(random, 7),
    cachedTokens: decodes * randomInteger(random, 1000),
    missingBytes: random() < 0.3 ? randomInteger(random, 300e6) : 0,
  };
}

/** Draws steps that take the time of `truth`, within 5 %; every `outlierEvery`th takes ten times as long. */
function observe(model: CostModel, truth: CostModel, numSteps: number, outlierEvery = Infinity): RefinedCostModel {
  const random = seededRandom(7);
  let refined = refineCostModel(model, { work: randomWork(random), durationMs: 0 });
  for (let step = 1; step <= numSteps; step++) {
    const work = randomWork(random);
    const noise = (1 + 0.05 * randomNormal(random)) * (step % outlierEvery === 0 ? 10 : 1);
    refined = refineCostModel(refined, { work, durationMs: predictStepMs(truth, work) * noise });
  }
  return refined;
}

/** Computes the mean relative error of predictions. */
function meanError(model: CostModel, truth: CostModel): number {
  const random = seededRandom(99);
  const errors = Array.from({ length: 500 }, () => {
    const work = randomWork(random);
    const expected = predictStepMs(truth, work);
    return Math.abs(predictStepMs(model, work) - expected) / expected;
  });
  return errors.reduce((sum, error) => sum + error, 0) / errors.length;
}

test("predicts the fixed time plus that of tokens, experts, context and loads", () => {
  const work = { tokens: 10, distinctExperts: 3, cachedTokens: 1000, missingBytes: 1e8 };
  expect(predictStepMs(TRUE, work)).toBeCloseTo(30 + 25 + 12 + 10 + 30, 9);
});

describe("refinement", () => {
  test.each(Object.entries(TRUE))("finds %s among noisy steps", (name, value) => {
    const refined = observe(DEFAULT_COST_MODEL, TRUE, 2000);
    expect(refined[name as keyof CostModel] / value).toBeGreaterThan(0.85);
    expect(refined[name as keyof CostModel] / value).toBeLessThan(1.15);
  });

  test("predicts within 10 % after thirty steps, and within 2 % after a thousand", () => {
    expect(meanError(DEFAULT_COST_MODEL, TRUE)).toBeGreaterThan(0.4);
    expect(meanError(observe(DEFAULT_COST_MODEL, TRUE, 30), TRUE)).toBeLessThan(0.1);
    expect(meanError(observe(DEFAULT_COST_MODEL, TRUE, 1000), TRUE)).toBeLessThan(0.02);
  });

  test("is barely changed by outliers that took ten times as long", () => {
    expect(meanError(observe(DEFAULT_COST_MODEL, TRUE, 1000, 25), TRUE)).toBeLessThan(0.1);
  });

  test.each([100, 0.01])("finds models that are %d times as slow", (factor) => {
    const truth = scaled(factor);
    expect(meanError(observe(DEFAULT_COST_MODEL, truth, 300), truth)).toBeLessThan(0.1);
  });

  test("predicts well if one part costs nothing", () => {
    const truth = { ...TRUE, msPerExpert: 0, msPerCachedToken: 0 };
    expect(meanError(observe(DEFAULT_COST_MODEL, truth, 300), truth)).toBeLessThan(0.05);
  });

  test("soon predicts a repeated step, whatever it learned before", () => {
    const random = seededRandom(4);
    for (let round = 0; round < 50; round++) {
      let model: CostModel = DEFAULT_COST_MODEL;
      for (let step = 0; step < 20; step++) {
        model = refineCostModel(model, { work: randomWork(random), durationMs: 100 * random() ** 2 });
      }
      const work = randomWork(random);
      for (let step = 0; step < 40; step++) model = refineCostModel(model, { work, durationMs: 8 });
      expect(predictStepMs(model, work)).toBeGreaterThan(6);
      expect(predictStepMs(model, work)).toBeLessThan(10);
    }
  });

  test("believes one short step after long ones, and not one long step after short ones", () => {
    const random = seededRandom(6);
    for (let round = 0; round < 50; round++) {
      const work = randomWork(random);
      const usualMs = 10 + 1000 * random();
      let model: CostModel = DEFAULT_COST_MODEL;
      for (let step = 0; step < 30; step++) model = refineCostModel(model, { work, durationMs: usualMs });
      const after = (durationMs: number): number => predictStepMs(refineCostModel(model, { work, durationMs }), work);
      expect(after(usualMs / 100)).toBeLessThan(usualMs / 10);
      expect(after(100 * usualMs)).toBeLessThan(1.5 * usualMs);
    }
  });

  test("follows a machine that becomes twice as slow", () => {
    const slow = scaled(2);
    expect(meanError(observe(observe(DEFAULT_COST_MODEL, TRUE, 1000), slow, 1000), slow)).toBeLessThan(0.1);
  });

  test("keeps coefficients non-negative numbers for any observations", () => {
    const random = seededRandom(3);
    let model: CostModel = DEFAULT_COST_MODEL;
    for (let step = 0; step < 5000; step++) {
      const durationMs = 1000 * random() ** 4 * (random() < 0.05 ? 100 : 1);
      const refined = refineCostModel(model, { work: randomWork(random), durationMs });
      for (const name of Object.keys(TRUE)) expect(refined[name as keyof CostModel]).toBeGreaterThanOrEqual(0);
      expect(refined.covariance.every(Number.isFinite)).toBe(true);
      model = refined;
    }
  });

  test("does not change its input, returns plain data, and ignores a clock that stands still", () => {
    const observation = { work: randomWork(seededRandom(1)), durationMs: 50 };
    const first = refineCostModel(DEFAULT_COST_MODEL, observation);
    const before = structuredClone(first);
    const second = refineCostModel(first, observation);
    expect(first).toEqual(before);
    expect(second).not.toEqual(first);
    expect(refineCostModel(structuredClone(first), observation)).toEqual(second);
    expect(refineCostModel(first, { ...observation, durationMs: 0 })).toEqual(first);
    expect(refineCostModel(first, { ...observation, durationMs: Number.NaN })).toEqual(first);
  });
});

function scaled(factor: number): CostModel {
  return Object.fromEntries(
    Object.entries(TRUE).map(([name, value]) => [name, value * factor]),
  ) as unknown as CostModel;
}
