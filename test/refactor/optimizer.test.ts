import { describe, expect, test } from "vitest";
import {
  adamRows,
  adamStep,
  clipGradients,
  learningRateShare,
  zeroMoments,
} from "../../packages/refactor/src/autodiff/adam.ts";
import { randomNormal, seededRandom } from "../support/random.ts";

const ADAM = { learningRate: 0.01, beta1: 0.9, beta2: 0.98, epsilon: 1e-8, weightDecay: 0.1 };

describe("AdamW", () => {
  test("first moves against the gradient by the learning rate, and decays", () => {
    const values = Float32Array.of(1, -2, 3);
    adamStep({ values, ...zeroMoments(3), step: 1 }, Float32Array.of(5, -0.01, 0), ADAM);
    const expected = [0.999 - 0.01, -2 * 0.999 + 0.01, 3 * 0.999];
    values.forEach((value, i) => expect(value).toBeCloseTo(expected[i]!, 5));
  });

  test("agrees with the formulas of the paper over many steps", () => {
    const random = seededRandom(1);
    const [values, moments] = [Float32Array.of(0.5), zeroMoments(1)];
    let [value, first, second] = [0.5, 0, 0];
    for (let step = 1; step <= 50; step++) {
      const gradient = Math.fround(randomNormal(random));
      adamStep({ values, ...moments, step }, Float32Array.of(gradient), ADAM);
      first = 0.9 * first + 0.1 * gradient;
      second = 0.98 * second + 0.02 * gradient ** 2;
      const update = first / (1 - 0.9 ** step) / (Math.sqrt(second / (1 - 0.98 ** step)) + 1e-8);
      value -= 0.01 * (update + 0.1 * value);
    }
    expect(values[0]).toBeCloseTo(value, 5);
  });

  test("keeps rows outside of a batch, and trains the others as if each were alone", () => {
    const random = seededRandom(2);
    const normals = (count: number): Float32Array => Float32Array.from({ length: count }, () => randomNormal(random));
    const table = normals(5 * 2);
    const [alone, aloneMoments] = [table.slice(6, 8), zeroMoments(2)];
    const [untouched, moments, steps] = [table.slice(0, 2), zeroMoments(10), new Float32Array(5)];
    for (let round = 1; round <= 6; round++) {
      const ids = round % 2 ? Int32Array.of(3, 1) : Int32Array.of(2, 3);
      const gradient = normals(4);
      adamRows({ values: table, ...moments, steps }, { ids, gradient }, ADAM);
      const own = gradient.slice(2 * ids.indexOf(3), 2 * ids.indexOf(3) + 2);
      adamStep({ values: alone, ...aloneMoments, step: round }, own, ADAM);
    }
    expect(table.slice(0, 2)).toEqual(untouched);
    expect(table.slice(6, 8)).toEqual(alone);
    expect([...steps]).toEqual([0, 3, 3, 6, 0]);
  });
});

test("the learning rate rises linearly and ends at its floor", () => {
  const shares = Array.from({ length: 100 }, (_, step) => learningRateShare(step, 100, 10, 0.1));
  expect(shares[0]).toBeCloseTo(0.1);
  expect(shares[9]).toBe(1);
  expect(Math.max(...shares)).toBe(1);
  expect(shares[99]).toBeLessThan(0.11);
  for (let step = 11; step < 100; step++) expect(shares[step]).toBeLessThan(shares[step - 1]!);
});

test("clips gradients by their joint norm, and only when it is too large", () => {
  const gradients = [Float32Array.of(3), Float32Array.of(0, 4)];
  expect(clipGradients(gradients, 10)).toBe(5);
  expect(gradients).toEqual([Float32Array.of(3), Float32Array.of(0, 4)]);
  expect(clipGradients(gradients, 2.5)).toBe(5);
  expect(gradients).toEqual([Float32Array.of(1.5), Float32Array.of(0, 2)]);
});
