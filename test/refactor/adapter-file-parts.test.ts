// What adapter files are made of: the coder of small integers, shares of bytes, factors, sets of neurons.

import * as fc from "../support/fast-check.ts";
import { afterAll, expect, test } from "vitest";
import { allocate, type Choice } from "../../packages/refactor/src/adapter-file/allocate.ts";
import { codeCost, quantize } from "../../packages/refactor/src/adapter-file/coded-values.ts";
import { decodeValues, encodeValues } from "../../packages/refactor/src/adapter-file/entropy-coder.ts";
import { lowRank } from "../../packages/refactor/src/adapter-file/low-rank.ts";
import { maskOf, neuronsOf } from "../../packages/refactor/src/adapter-file/masks.ts";
import { matchNeurons, neuronIndex } from "../../packages/refactor/src/adapter-file/match-neurons.ts";
import { tablesFromCounts, tablesOf, type SymbolTables } from "../../packages/refactor/src/adapter-file/symbols.ts";
import { Products } from "../../packages/refactor/src/linear-algebra/products.ts";
import { randomNormal, seededRandom } from "../support/random.ts";

const products = await Products.open();
afterAll(() => products.dispose());

function tablesFor(values: Int16Array): SymbolTables {
  return tablesFromCounts(Float64Array.from(codeCost(Float32Array.from(values), 1).counts));
}

const int16 = fc.oneof(
  { arbitrary: fc.integer({ min: -3, max: 3 }), weight: 8 },
  { arbitrary: fc.integer({ min: -32_768, max: 32_767 }), weight: 1 },
);

test("coded integers come back, whatever they are and whatever tables they are coded with", () => {
  fc.assert(
    fc.property(fc.array(int16, { maxLength: 300 }), fc.array(int16, { maxLength: 300 }), (list, others) => {
      const values = Int16Array.from(list);
      for (const tables of [tablesFor(values), tablesFor(Int16Array.from(others))]) {
        expect(decodeValues(encodeValues(values, tables), values.length, tables)).toEqual(values);
      }
    }),
  );
});

test("bytes that were cut, lengthened or are of another number of values are not decoded", () => {
  fc.assert(
    fc.property(fc.array(int16, { minLength: 20, maxLength: 200 }), (list) => {
      const values = Int16Array.from(list);
      const tables = tablesFor(values);
      const bytes = encodeValues(values, tables);
      for (let length = 0; length < bytes.length; length++) {
        expect(decodeValues(bytes.subarray(0, length), values.length, tables)).toBeUndefined();
      }
      expect(decodeValues(Uint8Array.of(...bytes, 0), values.length, tables)).toBeUndefined();
      expect(decodeValues(bytes, values.length + 500, tables)).toBeUndefined();
    }),
  );
});

test("normal numbers take no more than their entropy and a hundredth", () => {
  const random = seededRandom(3);
  const values = quantize(
    Float32Array.from({ length: 200_000 }, () => randomNormal(random)),
    0.7,
  );
  const counts = new Map<number, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  const bits = [...counts.values()].reduce((sum, count) => sum - count * Math.log2(count / values.length), 0);
  const { length } = encodeValues(values, tablesFor(values));
  expect(8 * length).toBeLessThan(1.01 * bits);
});

test("numbers whose size changes take less than one table for all of them would", () => {
  const random = seededRandom(4);
  const values = quantize(
    Float32Array.from({ length: 200_000 }, (_, at) => (at % 20_000 < 10_000 ? 0.1 : 3) * randomNormal(random)),
    0.7,
  );
  const counts = new Map<number, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  const bits = [...counts.values()].reduce((sum, count) => sum - count * Math.log2(count / values.length), 0);
  expect(8 * encodeValues(values, tablesFor(values)).length).toBeLessThan(0.8 * bits);
});

test("tables with an impossible symbol, or that do not add up, are none", () => {
  const { frequencies } = tablesFor(Int16Array.of(1, 2, 3));
  expect(tablesOf(frequencies)).toBeDefined();
  for (const [at, change] of [
    [0, 1],
    [3, -1],
    [40, -frequencies[40]!],
  ] as const) {
    const wrong = frequencies.slice();
    wrong[at] = wrong[at]! + change;
    expect(tablesOf(wrong)).toBeUndefined();
  }
  expect(tablesOf(frequencies.subarray(1))).toBeUndefined();
});

test("a quantised number is within a step of itself", () => {
  fc.assert(
    fc.property(
      fc.double({ min: -100, max: 100, noNaN: true }),
      fc.double({ min: 0.01, max: 3, noNaN: true }),
      (x, step) => {
        const [value] = quantize(Float32Array.of(x), step) as unknown as [number];
        expect(Math.abs(value * step - x)).toBeLessThanOrEqual(0.5801 * step);
      },
    ),
  );
});

const someChoices = fc.array(
  fc.array(fc.record({ bytes: fc.integer({ min: 0, max: 30 }), error: fc.integer({ min: 0, max: 100 }) }), {
    minLength: 1,
    maxLength: 4,
  }),
  { minLength: 1, maxLength: 5 },
);

function total(choices: readonly (readonly Choice[])[], picks: readonly number[]): Choice {
  const picked = picks.map((pick, at) => choices[at]?.[pick] as Choice);
  return {
    bytes: picked.reduce((sum, one) => sum + one.bytes, 0),
    error: picked.reduce((sum, one) => sum + one.error, 0),
  };
}

function allPicks(choices: readonly (readonly Choice[])[]): readonly (readonly number[])[] {
  return choices.reduce<readonly (readonly number[])[]>(
    (picks, own) => picks.flatMap((pick) => own.map((_, index) => [...pick, index])),
    [[]],
  );
}

test("no way to share out the same bytes errs less: exhaustive search", () => {
  fc.assert(
    fc.property(someChoices, fc.integer({ min: 0, max: 120 }), (choices, maxBytes) => {
      const picks = allocate(choices, maxBytes);
      const all = allPicks(choices).map((one) => total(choices, one));
      if (!picks) {
        expect(all.every(({ bytes }) => bytes > maxBytes)).toBe(true);
        return;
      }
      const own = total(choices, picks);
      expect(own.bytes).toBeLessThanOrEqual(maxBytes);
      const best = Math.min(...all.filter(({ bytes }) => bytes <= own.bytes).map(({ error }) => error));
      expect(own.error).toBe(best);
    }),
  );
});

test("more bytes never err more", () => {
  fc.assert(
    fc.property(someChoices, (choices) => {
      let last = Infinity;
      for (let maxBytes = 0; maxBytes <= 120; maxBytes += 5) {
        const picks = allocate(choices, maxBytes);
        if (!picks) continue;
        const { error } = total(choices, picks);
        expect(error).toBeLessThanOrEqual(last);
        last = error;
      }
    }),
  );
});

function plainProduct(rows: number, columns: number, rank: number, seed: number): Float32Array {
  const random = seededRandom(seed);
  const left = Array.from({ length: rows * rank }, () => randomNormal(random));
  const right = Array.from({ length: columns * rank }, () => randomNormal(random));
  return Float32Array.from({ length: rows * columns }, (_, at) => {
    const [row, column] = [Math.floor(at / columns), at % columns];
    let sum = 0;
    for (let k = 0; k < rank; k++) sum += 0.5 ** k * left[row * rank + k]! * right[column * rank + k]!;
    return sum;
  });
}

test("a product of thin factors is found whole, its directions at right angles and by size", async () => {
  const [rows, columns] = [60, 45];
  const values = plainProduct(rows, columns, 5, 1);
  const { rank, sizes, left, right } = (await lowRank(products, values, rows, columns, 8, 0.5))!;
  expect(rank).toBe(5);
  expect([...sizes]).toEqual([...sizes].toSorted((a, b) => b - a));
  for (let a = 0; a < rank; a++) {
    for (let b = 0; b <= a; b++) {
      for (const [vectors, size] of [
        [left, rows],
        [right, columns],
      ] as const) {
        let dot = 0;
        for (let i = 0; i < size; i++) dot += vectors[a * size + i]! * vectors[b * size + i]!;
        expect(dot).toBeCloseTo(a === b ? 1 : 0, 4);
      }
    }
  }
  values.forEach((value, at) => {
    let sum = 0;
    for (let k = 0; k < rank; k++) {
      sum += sizes[k]! * left[k * rows + Math.floor(at / columns)]! * right[k * columns + (at % columns)]!;
    }
    expect(sum).toBeCloseTo(value, 3);
  });
});

test("of noise, a few directions are not worth while", async () => {
  const random = seededRandom(1);
  const noise = Float32Array.from({ length: 200 * 150 }, () => randomNormal(random));
  expect(await lowRank(products, noise, 200, 150, 8, 0.5)).toBeUndefined();
});

test("a set of neurons is what its bits say", () => {
  fc.assert(
    fc.property(fc.uniqueArray(fc.integer({ min: 0, max: 76 })), (list) => {
      const neurons = Int32Array.from(list).toSorted();
      expect(neuronsOf(maskOf(neurons, 77), 77, neurons.length)).toEqual(neurons);
      expect(neuronsOf(maskOf(neurons, 77), 77, neurons.length + 1)).toBeUndefined();
    }),
  );
  expect(neuronsOf(Uint8Array.of(0b1000_0000), 7, 1)).toBeUndefined();
});

test.each([0, 0.2])("neurons are found again with noise of %f, each once", (noise) => {
  const random = seededRandom(9);
  const [hiddenSize, count] = [24, 50];
  const draw = (): Float32Array => Float32Array.from({ length: count * hiddenSize }, () => randomNormal(random));
  const dense = { count, gate: draw(), up: draw() };
  const picked = Array.from({ length: count }, (_, at) => (at * 7) % count).slice(0, 30);
  const rows = (of: Float32Array): Float32Array =>
    Float32Array.from(picked.flatMap((row) => [...of.subarray(row * hiddenSize, (row + 1) * hiddenSize)])).map(
      (value) => value + noise * randomNormal(random),
    );
  const expert = { count: 30, gate: rows(dense.gate), up: rows(dense.up) };
  expect(matchNeurons(expert, neuronIndex(dense, hiddenSize))).toEqual(Int32Array.from(picked));
});

test("equal dense neurons are given out one by one, and never more than there are", () => {
  const dense = { count: 3, gate: new Float32Array(12).fill(1), up: new Float32Array(12).fill(2) };
  const index = neuronIndex(dense, 4);
  expect(matchNeurons(dense, index)!.toSorted()).toEqual(Int32Array.of(0, 1, 2));
  const wide = { count: 4, gate: new Float32Array(16), up: new Float32Array(16) };
  expect(matchNeurons(wide, index)).toBeUndefined();
});
