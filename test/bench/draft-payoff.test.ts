// When a draft model pays, from given times.

import { expect, test } from "vitest";
import { bestLength, breakEvenChance, speedUp, timesOfRows } from "../../bench/speculation/draft-payoff.ts";

test("times between measured numbers of rows lie on straight lines", () => {
  const times = timesOfRows([
    [1, 10],
    [2, 11],
    [4, 15],
  ]);
  expect(times).toEqual([10, 11, 13, 15]);
});

test("the gain is what counting tokens and milliseconds of many steps gives", () => {
  const times = { verifyMs: [10, 11, 13], firstMs: 2, runMs: 1 };

  expect(speedUp(times, 0.5, 2)).toBeCloseTo((1 + 0.5 + 0.25) / ((13 + 2 + 1) / 10));
  expect(speedUp(times, 1, 2)).toBeCloseTo(3 / 1.6);
  expect(speedUp(times, 0, 1)).toBeCloseTo(10 / 13);
});

test("drafts pay from their break-even chance on", () => {
  const times = { verifyMs: [10, 11, 13], firstMs: 2, runMs: 1 };
  expect(breakEvenChance(times, 1)).toBeCloseTo(0.3);
  // x + x² = 0.6
  expect(breakEvenChance(times, 2)).toBeCloseTo((Math.sqrt(1 + 4 * 0.6) - 1) / 2);
  expect(breakEvenChance({ ...times, firstMs: 20 }, 2)).toBeUndefined();
});

test("the best length is none for drafts that do not pay, and the longest for sure ones", () => {
  const times = { verifyMs: [10, 11, 13], firstMs: 2, runMs: 1 };
  expect(bestLength(times, 0.1)).toEqual([0, 1]);
  expect(bestLength(times, 1)[0]).toBe(2);
});
