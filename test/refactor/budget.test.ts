// Compares the division of a budget among layers with an exhaustive search.

import { expect, test } from "vitest";
import { divideBudget, sizeSteps } from "../../packages/refactor/src/experts/budget.ts";
import * as fc from "../support/fast-check.ts";

const SIZES = [4, 7, 10, 13];

function sumOf(curves: readonly (readonly number[])[], chosen: readonly number[]): number {
  return chosen.reduce((sum, size, layer) => sum + (curves[layer]?.[SIZES.indexOf(size)] ?? NaN), 0);
}

/** Tries all sizes of all layers. */
function leastSum(curves: readonly (readonly number[])[], budget: number): number {
  let divisions: readonly (readonly number[])[] = [[]];
  for (const _ of curves) divisions = divisions.flatMap((chosen) => SIZES.map((size) => [...chosen, size]));
  const fitting = divisions.filter((chosen) => chosen.reduce((sum, size) => sum + size, 0) <= budget);
  return Math.min(...fitting.map((chosen) => sumOf(curves, chosen)));
}

test("finds the least sum of errors that an exhaustive search finds, for curves of any shape", () => {
  // Whole numbers are summed without rounding.
  const curve = fc.array(fc.integer({ min: 0, max: 100 }), { minLength: 4, maxLength: 4 });
  const curves = fc.array(curve, { minLength: 1, maxLength: 5, size: "max" });
  fc.assert(
    fc.property(curves, fc.integer({ min: 0, max: 50 }), (layers, spare) => {
      const budget = layers.length * 4 + spare;
      const chosen = divideBudget(layers, SIZES, budget);
      expect(chosen).toHaveLength(layers.length);
      expect(chosen.reduce((sum, size) => sum + size, 0)).toBeLessThanOrEqual(budget);
      expect(sumOf(layers, chosen)).toBe(leastSum(layers, budget));
    }),
  );
});

test("gives more neurons to the layer whose error they lower most", () => {
  const steep = [9, 4, 2, 0];
  const flat = [3, 2, 1, 0];
  expect(divideBudget([flat, steep], SIZES, 17)).toEqual([4, 13]);
  expect(divideBudget([steep, flat], SIZES, 26)).toEqual([13, 13]);
  expect(divideBudget([steep, flat], SIZES, 1000)).toEqual([13, 13]);
});

test("refuses a budget below the least sizes", () => {
  expect(() => divideBudget([[1, 0, 0, 0]], SIZES, 3)).toThrow(RangeError);
});

test.each([1, 2, 7, 40, 1023, 1024, 1536, 4864, 8960, 11_008])("has equal steps up to %i neurons", (numNeurons) => {
  const sizes = sizeSteps(numNeurons);
  const step = (sizes[1] ?? numNeurons + 1) - sizes[0]!;
  expect(sizes.at(-1)).toBe(numNeurons);
  expect(sizes.every((size, index) => index === 0 || step === size - sizes[index - 1]!)).toBe(true);
  expect(sizes[0]).toBeGreaterThanOrEqual(numNeurons / 4);
  expect(sizes[0]! - step).toBeLessThan(numNeurons / 4);
  if (numNeurons >= 1024) expect(step % 32).toBe(0);
});
