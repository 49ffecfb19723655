// Products outside of models, forwards and backwards, against plain sums.

import { FrozenProduct, ProductTeam } from "@readme-moe/kernel";
import { afterAll, expect, test } from "vitest";
import { ggmlTypeOf } from "@readme-moe/model";
import { roundToBlocks } from "../../packages/refactor/src/blocks/round-blocks.ts";
import { loadAddon } from "../../packages/kernel/src/native-kernel.ts";
import { memoryLinear, memoryTensor } from "../support/kernel/memory-store.ts";
import { randomFloats } from "../support/kernel/random-weights.ts";
import { seededRandom } from "../support/random.ts";

const team = new ProductTeam(2);
afterAll(() => team.close());

/** Computes `rows · weightsᵀ` of weights `[numOut, numIn]`. */
function plainProduct(rows: Float32Array, weights: Float32Array, numIn: number): Float32Array {
  const numOut = weights.length / numIn;
  return Float32Array.from({ length: (rows.length / numIn) * numOut }, (_, place) => {
    const [row, out] = [Math.floor(place / numOut), place % numOut];
    let sum = 0;
    for (let i = 0; i < numIn; i++) sum += rows[row * numIn + i]! * weights[out * numIn + i]!;
    return sum;
  });
}

function transposed(weights: Float32Array, numIn: number): Float32Array {
  const numOut = weights.length / numIn;
  return weights.map((_, place) => weights[(place % numOut) * numIn + Math.floor(place / numOut)]!);
}

/** Returns the size of a difference relative to what is expected. */
function relativeError(found: Float32Array, expected: Float32Array): number {
  return sizeOf(found.map((value, i) => value - expected[i]!)) / sizeOf(expected);
}

function sizeOf(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
}

/** Makes a description of a tensor as the addon takes it. */
function tensor(...numbers: readonly number[]): Int32Array {
  return Int32Array.from(numbers);
}

test.each([
  [1, 1, 1],
  [3, 37, 41],
  [17, 96, 64],
  [130, 100, 250],
  [5, 33, 64],
])("multiplies %i rows of %i inputs to %i outputs", async (numRows, numIn, numOut) => {
  const random = seededRandom(numRows);
  const weights = randomFloats(random, numOut * numIn, 1);
  const product = await FrozenProduct.open(team, memoryLinear(weights, numIn, undefined), { hasGradients: true });
  expect([product.numIn, product.numOut]).toEqual([numIn, numOut]);
  const rows = randomFloats(random, numRows * numIn, 1);
  const gradients = randomFloats(random, numRows * numOut, 1);
  expect(relativeError(product.forward(rows), plainProduct(rows, weights, numIn))).toBeLessThan(0.02);
  const expected = plainProduct(gradients, transposed(weights, numIn), numOut);
  expect(relativeError(product.backward(gradients), expected)).toBeLessThan(0.02);
  expect(product.forward(new Float32Array(0))).toHaveLength(0);
});

test("adds biases, and has the same bits with any number of threads and of rows", async () => {
  const random = seededRandom(2);
  const [numIn, numOut, numRows] = [70, 90, 200];
  const [weights, bias] = [randomFloats(random, numOut * numIn, 1), randomFloats(random, numOut, 1)];
  const refs = memoryLinear(weights, numIn, bias);
  const product = await FrozenProduct.open(team, refs, { hasGradients: false });
  const rows = randomFloats(random, numRows * numIn, 1);
  const outputs = product.forward(rows);
  const expected = plainProduct(rows, weights, numIn).map((value, place) => value + bias[place % numOut]!);
  expect(relativeError(outputs, expected)).toBeLessThan(0.02);
  expect(() => product.backward(outputs)).toThrow(TypeError);
  const three = new ProductTeam(3);
  const other = await FrozenProduct.open(three, refs, { hasGradients: false });
  expect(other.forward(rows)).toEqual(outputs);
  three.close();
  expect(product.forward(rows.subarray(7 * numIn, 9 * numIn))).toEqual(outputs.subarray(7 * numOut, 9 * numOut));
});

test("takes a file's blocks as they are", async () => {
  const random = seededRandom(3);
  const [numOut, numIn] = [66, 512];
  const bytes = roundToBlocks(randomFloats(random, numOut * numIn, 1), "Q4_K");
  const values = ggmlTypeOf("Q4_K")!.dequantize!(bytes);
  const ref = memoryTensor(values, [numOut, numIn]);
  const info = { name: "tensor", type: "Q4_K", shape: ref.shape, byteLength: bytes.length } as const;
  const rowBytes = bytes.length / numOut;
  const readBytes = async (_: string, { from, to } = { from: 0, to: numOut }) =>
    bytes.slice(from * rowBytes, to * rowBytes);
  const weight = { ...ref, store: { ...ref.store, info: () => info, readBytes } };
  const product = await FrozenProduct.open(team, { weight, bias: undefined }, { hasGradients: true });
  const rows = randomFloats(random, 40 * numIn, 1);
  // Only inputs are rounded.
  expect(relativeError(product.forward(rows), plainProduct(rows, values, numIn))).toBeLessThan(0.01);
});

test("refuses what does not fit, and teams that have ended", async () => {
  const addon = loadAddon();
  const weights = addon.newWeights(64 * 32 + 256);
  const handle = addon.startTeam(1);
  const int8 = tensor(3, 8, 32, 0, 32, -1);
  const [rows, outputs] = [new Float32Array(64), new Float32Array(16)];
  const call = (...changes: readonly (readonly [index: number, value: unknown])[]): unknown => {
    const values: unknown[] = [handle, weights, "plain", int8, rows, outputs];
    for (const [index, value] of changes) values[index] = value;
    return (addon.multiplyRows as (...given: readonly unknown[]) => unknown)(...values);
  };
  call();
  const junk = [undefined, null, 0, "", {}, [], new Int32Array(2), addon];
  for (const value of junk)
    for (let index = 0; index < 6; index++) expect(() => call([index, value])).toThrow(/Expected/);
  expect(() => call([0, weights])).toThrow(/a team/);
  expect(() => call([1, handle])).toThrow(/weights/);
  expect(() => call([2, "avx9"])).toThrow(/instructions/);
  expect(() => call([3, tensor(0, 8, 32, 0, -1, -1)])).toThrow();
  expect(() => call([3, tensor(3, 8, 32, 0, 33, -1)])).toThrow();
  expect(() => call([3, tensor(3, 8, 32, 5, 32, -1)])).toThrow();
  expect(() => call([3, tensor(99, 8, 32, 0, 32, -1)])).toThrow();
  expect(() => call([3, tensor(3, 0, 32, 0, 32, -1)])).toThrow();
  expect(() => call([3, tensor(3, 8, -32, 0, 32, -1)])).toThrow();
  expect(() => call([4, new Float32Array(63)])).toThrow(/whole rows/);
  expect(() => call([4, new Float32Array(96)])).toThrow(/each row/);
  expect(() => call([4, new Float32Array(0)], [5, new Float32Array(0)])).toThrow(/rows/);
  for (const threads of [0, -1, 65, 1.5e9]) expect(() => addon.startTeam(threads)).toThrow(/threads/);
  addon.endTeam(handle);
  addon.endTeam(handle);
  expect(() => call()).toThrow(/ended/);
});
