// Against what onnxruntime 1.32's own quantisers (Python) make of the same weights.

import { expect, test } from "vitest";
import {
  asymmetricGrid,
  quantizeBlocks4,
  symmetricGrid,
  toGrid,
} from "../../packages/refactor/src/export/export-weights.ts";
import { transpose } from "@readme-moe/model";

const [ROWS, COLUMNS] = [2, 40];
const weights = Float32Array.from({ length: ROWS * COLUMNS }, (_, index) => {
  const [row, column] = [Math.floor(index / COLUMNS), index % COLUMNS];
  return ((((column * 37 + row * 11) % 64) - 31.5) / 16) * (1 + row);
});
weights[5] = 1.96875; // as large as the smallest of its block is small

test("int8 has no zero point, and rounds halves to even", () => {
  const grid = symmetricGrid(weights);
  expect(grid).toEqual({ scale: Math.fround(7.875 / 254), zeroPoint: 0 });
  const values = new Int8Array(toGrid(weights, grid, "int8").buffer);
  expect(Array.from(values.slice(0, 12))).toEqual([-64, 11, -43, 31, -23, 64, -3, -57, 17, -37, 37, -17]);
  expect(Array.from(values.slice(-12))).toEqual(
    [-75, 75, -34, 115, 6, -103, 46, -62, 87, -22, 127, 18, -91, 58].slice(2),
  );
});

test("uint8 covers the range of the values, with zero at an integer", () => {
  const grid = asymmetricGrid(weights);
  expect(grid).toEqual({ scale: Math.fround(7.875 / 255), zeroPoint: 128 });
  const values = toGrid(weights, grid, "uint8");
  expect(Array.from(values.slice(0, 12))).toEqual([64, 139, 84, 159, 105, 192, 125, 70, 145, 91, 165, 111]);
  expect(Array.from(values.slice(-6))).toEqual([215, 106, 255, 146, 37, 187]);
});

const FIRST_BLOCK = [144, 195, 245, 24, 58, 109, 143, 178, 212, 247, 41, 92, 126, 161, 195, 246];
const THIRD_BLOCK = [195, 245, 24, 74, 109, 159, 178, 228, 7, 57, 92, 142, 161, 211, 246, 40];

test("4 bits: the extreme of a block becomes -8, the negative one of two; short blocks end with zeros", () => {
  const { values, scales } = quantizeBlocks4(weights, ROWS, COLUMNS);
  expect(Array.from(scales)).toEqual([0.24609375, -0.23828125, 0.4921875, -0.4921875]);
  // Of each row a whole block, and a quarter of one.
  expect(Array.from(values.slice(0, 16))).toEqual(FIRST_BLOCK);
  expect(Array.from(values.slice(16, 20))).toEqual([248, 197, 163, 112]);
  expect(Array.from(values.slice(20, 32))).toEqual(Array(12).fill(0x88));
  expect(Array.from(values.slice(32, 48))).toEqual(THIRD_BLOCK);
  expect(Array.from(values.slice(48, 52))).toEqual([197, 147, 112, 78]);
});

test("zero weights stay zero", () => {
  const nothing = new Float32Array(32);
  expect(toGrid(nothing, symmetricGrid(nothing), "int8").every((value) => value === 0)).toBe(true);
  expect(quantizeBlocks4(nothing, 1, 32).values.every((value) => value === 0x88)).toBe(true);
});

test("transposing swaps rows and columns, also of sizes that are no multiple of its squares", () => {
  const values = Float32Array.from({ length: 33 * 70 }, (_, index) => index);
  const transposed = transpose(values, 33, 70);
  for (const [row, column] of [
    [0, 0],
    [32, 69],
    [7, 64],
    [31, 3],
  ] as const) {
    expect(transposed[column * 33 + row]).toBe(row * 70 + column);
  }
});
