// Factors between a product and what comes before it change how weights are rounded, and nothing else.

import { describe, expect, test } from "vitest";
import { inputFactors, packInt8 } from "../../../packages/kernel/src/pack/pack-product.ts";
import { packNorm } from "../../../packages/kernel/src/pack/pack-tables.ts";
import { memoryLinear, memoryTensor } from "../../support/kernel/memory-store.ts";
import { packedParts } from "../../support/kernel/packed-bytes.ts";
import { randomFloats } from "../../support/kernel/random-weights.ts";
import { seededRandom } from "../../support/random.ts";

const factorsOf = async (...squares: number[]): Promise<number[]> =>
  Array.from(await inputFactors({ inputSquares: async () => Float32Array.from(squares) }, "product")());

describe("factors", () => {
  test("are the inverse fourth root of each input's size", async () => {
    const squares = [16, 1, 1 / 16];
    const mean = (16 + 1 + 1 / 16) / 3;
    const expected = squares.map((square) => (square / mean) ** (-1 / 8));
    for (const [i, factor] of (await factorsOf(...squares)).entries()) {
      expect(factor).toBeCloseTo(expected[i] as number, 6);
    }
  });

  test("stay small for unused inputs, and are 1 without statistics", async () => {
    const [used, unused] = await factorsOf(1, 0);
    expect(unused).toBeCloseTo(10 ** 0.5, 5);
    expect(used).toBeCloseTo(2 ** (-1 / 8), 6);
    expect(await factorsOf(0, 0)).toEqual([1, 1]);
    expect(await factorsOf(1, NaN)).toEqual([1, 1]);
    expect(await factorsOf(1, Infinity)).toEqual([1, 1]);
  });
});

test("weights are those of a product with scaled inputs and outputs", async () => {
  const random = seededRandom(1);
  // Neither whole panels nor whole groups.
  const [numOut, numIn] = [70, 38];
  const values = randomFloats(random, numOut * numIn, 1);
  const bias = randomFloats(random, numOut, 1);
  const inputs = randomFloats(random, numIn, 0.2).map((x) => 1 + Math.abs(x));
  const outputs = randomFloats(random, numOut, 0.2).map((x) => 1 + Math.abs(x));
  const factors = { inputs: async () => inputs, outputs: async () => outputs };
  const moved = await packedParts(packInt8(memoryLinear(values, numIn, bias), factors));
  const divided = values.map((value, i) => value / (inputs[i % numIn] as number));
  const plain = await packedParts(packInt8(memoryLinear(divided, numIn, bias)));
  const times = (x: Float32Array): Float32Array => x.map((value, i) => value * (outputs[i] ?? 1));
  expect(moved).toEqual({ weights: plain.weights, scales: times(plain.scales), bias: times(plain.bias) });
});

test("rounds to the nearest of 127 levels on either side of 0, whatever a row's length", async () => {
  const random = seededRandom(2);
  for (const numIn of [1, 2, 3, 4, 5, 33]) {
    const values = randomFloats(random, 3 * numIn, 0.1);
    const { weights, scales } = await packedParts(packInt8(memoryLinear(values, numIn, undefined)));
    for (let row = 0; row < 3; row++) {
      const own = values.subarray(row * numIn, (row + 1) * numIn);
      const scale = Math.fround(Math.max(...own.map(Math.abs)) / 127);
      expect(scales[row]).toBe(scale);
      const bytes = Array.from(own.keys(), (i) => weights[(i >> 2) * 256 + row * 4 + (i & 3)]);
      expect(bytes).toEqual(Array.from(own, (value) => 128 + Math.round(value / scale)));
    }
  }
});

test("rows too small for a scale become zeros, and weights that are not finite make such a scale", async () => {
  const values = Float32Array.of(1e-40, -1e-45, NaN, 1, Infinity, 2);
  const { scales } = await packedParts(packInt8(memoryLinear(values, 2, undefined)));
  expect(Array.from(scales.subarray(0, 3))).toEqual([0, NaN, Infinity]);
});

test("norms multiply their outputs by factors", async () => {
  const factors = Float32Array.of(2, 4, 0.5);
  const norm = packNorm(memoryTensor(Float32Array.of(1, 2, 3), [3]), 1, async () => factors);
  const { weights } = await packedParts(norm);
  expect(Array.from(new Float32Array(weights.buffer, weights.byteOffset, 4))).toEqual([4, 12, 2, 0]);
});
