// What drafted tokens add to steps, and how far chances can be trusted.

import {
  calibrate,
  calibrationFactor,
  DEFAULT_COST_MODEL,
  NO_CALIBRATION,
  NO_ROW_COSTS,
  predictStepMs,
  refineRowCosts,
  rowMsOf,
  seededRandom,
  withRowMs,
  type RowCosts,
} from "@readme-moe/core";
import { expect, test } from "vitest";

const COST = { ...DEFAULT_COST_MODEL, msPerToken: 0.3 };

/** Measures steps in which each drafted token adds `rowMs`, with noise. */
function measured(costs: RowCosts, tokens: number, rowMs: number, numSteps: number): RowCosts {
  const random = seededRandom(tokens);
  let refined = costs;
  for (let step = 0; step < numSteps; step++) {
    const draftTokens = Math.floor(random() * 4) * Math.floor(random() * 3);
    const durationMs = 6 + rowMs * draftTokens + random() * 0.4;
    refined = refineRowCosts(refined, { tokens, draftTokens, durationMs, predictedMs: 5.8 });
  }
  return refined;
}

test("a drafted token is taken to cost what a token of a prompt does until steps are measured", () => {
  expect(rowMsOf(NO_ROW_COSTS, 1, COST)).toBeCloseTo(0.3, 9);
});

test("the measured cost is found, for small and large steps apart", () => {
  const small = measured(NO_ROW_COSTS, 1, 0.12, 300);
  const both = measured(small, 16, 0.9, 300);
  expect(rowMsOf(both, 1, COST)).toBeGreaterThan(0.1);
  expect(rowMsOf(both, 1, COST)).toBeLessThan(0.15);
  expect(rowMsOf(both, 17, COST)).toBeGreaterThan(0.75);
  expect(rowMsOf(both, 17, COST)).toBeLessThan(0.95);
  expect(rowMsOf(both, 4, COST)).toBeCloseTo(0.3, 9);
});

test("a cost that changes is found again, and a disturbed step changes nothing", () => {
  const before = measured(NO_ROW_COSTS, 2, 0.2, 200);
  const after = measured(before, 2, 0.7, 300);
  expect(rowMsOf(after, 2, COST)).toBeGreaterThan(0.55);
  expect(refineRowCosts(after, { tokens: 2, draftTokens: 3, durationMs: 80, predictedMs: 6 })).toBe(after);
  expect(refineRowCosts(after, { tokens: 2, draftTokens: 3, durationMs: 0, predictedMs: 6 })).toBe(after);
});

test("the cost stays within bounds, whatever is measured", () => {
  const wild = measured(NO_ROW_COSTS, 1, -5, 0);
  let costs = wild;
  for (let step = 0; step < 100; step++) {
    costs = refineRowCosts(costs, { tokens: 1, draftTokens: step % 9, durationMs: 16 - (step % 9), predictedMs: 8 });
  }
  expect(rowMsOf(costs, 1, COST)).toBeCloseTo(0.3 * COST.msPerToken, 9);
});

test("another time per token keeps the prediction of the step without drafts", () => {
  const work = { tokens: 5, distinctExperts: 2, cachedTokens: 300, missingBytes: 1000 };
  const changed = withRowMs(COST, 0.9, work);
  expect(changed.msPerToken).toBe(0.9);
  expect(predictStepMs(changed, work)).toBeCloseTo(predictStepMs(COST, work), 9);
  const more = { ...work, tokens: 7 };
  expect(predictStepMs(changed, more)).toBeCloseTo(predictStepMs(COST, work) + 1.8, 9);
});

test("chances are lowered where drafts were right less often than expected", () => {
  let calibration = NO_CALIBRATION;
  expect(calibrationFactor(calibration)).toBeCloseTo(0.95, 9);
  for (let draft = 0; draft < 500; draft++) calibration = calibrate(calibration, 2, 1);
  expect(calibrationFactor(calibration)).toBeCloseTo(0.5, 1);
  for (let draft = 0; draft < 2000; draft++) calibration = calibrate(calibration, 2, 2);
  expect(calibrationFactor(calibration)).toBeGreaterThan(0.95);
  for (let draft = 0; draft < 2000; draft++) calibration = calibrate(calibration, 2, 0);
  expect(calibrationFactor(calibration)).toBe(0.3);
});
