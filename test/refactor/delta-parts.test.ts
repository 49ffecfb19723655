// Parts of delta files: packed integers, shares of bytes, factors, sets of neurons.

import * as fc from "../support/fast-check.ts";
import { afterAll, expect, test } from "vitest";
import { packIntegers, quantize, unpackIntegers } from "../../packages/refactor/src/delta/integers.ts";
import { lowRank } from "../../packages/refactor/src/delta/low-rank.ts";
import { maskOf, matchNeurons, neuronsOf } from "../../packages/refactor/src/delta/neurons.ts";
import { allocate, type Choice } from "../../packages/refactor/src/delta/plan-tensors.ts";
import { matrix, type Matrix, Products } from "../../packages/refactor/src/linear-algebra/matrix.ts";
import { randomNormal, seededRandom } from "../support/random.ts";

const products = await Products.open();
afterAll(() => products.dispose());

const int16 = fc.oneof(
  { arbitrary: fc.integer({ min: -3, max: 3 }), weight: 8 },
  { arbitrary: fc.integer({ min: -32_768, max: 32_767 }), weight: 1 },
);

test("unpacks any integers to what was packed", () => {
  fc.assert(
    fc.property(fc.array(int16, { maxLength: 300 }), (list) => {
      const values = Int16Array.from(list);
      expect(unpackIntegers(packIntegers(values), values.length)).toEqual(values);
    }),
  );
});

test("refuses bytes that were cut or lengthened, and another number of values", () => {
  fc.assert(
    fc.property(fc.array(int16, { minLength: 20, maxLength: 200 }), (list) => {
      const values = Int16Array.from(list);
      const bytes = packIntegers(values);
      for (let length = 0; length < bytes.length; length++) {
        expect(unpackIntegers(bytes.subarray(0, length), values.length)).toBeUndefined();
      }
      for (const count of [0, values.length - 2, values.length + 2, 2 ** 28]) {
        expect(unpackIntegers(bytes, count)).toBeUndefined();
      }
    }),
  );
});

/** Bits of a number if each were coded by its frequency alone. */
function entropy(values: Int16Array): number {
  const counts = new Map<number, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts.values()].reduce((sum, count) => sum - count * Math.log2(count / values.length), 0);
}

test("packs normal numbers within five hundredths of their entropy", () => {
  const random = seededRandom(3);
  const values = quantize(
    Float32Array.from({ length: 200_000 }, () => randomNormal(random)),
    0.7,
  );
  expect(8 * packIntegers(values).length).toBeLessThan(1.05 * entropy(values));
});

test("packs numbers of changing magnitude in less than their common entropy", () => {
  const random = seededRandom(4);
  const values = quantize(
    Float32Array.from({ length: 200_000 }, (_, at) => (at % 20_000 < 10_000 ? 0.1 : 3) * randomNormal(random)),
    0.7,
  );
  expect(8 * packIntegers(values).length).toBeLessThan(0.9 * entropy(values));
});

test("rounds a number to within 0.58 steps of itself", () => {
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

function total(picks: readonly Choice[]): Choice {
  return {
    bytes: picks.reduce((sum, one) => sum + one.bytes, 0),
    error: picks.reduce((sum, one) => sum + one.error, 0),
  };
}

function allPicks(choices: readonly (readonly Choice[])[]): readonly (readonly Choice[])[] {
  return choices.reduce<readonly (readonly Choice[])[]>(
    (picks, own) => picks.flatMap((pick) => own.map((one) => [...pick, one])),
    [[]],
  );
}

test("allocates bytes so that no other picks of the same size err less, by exhaustive search", () => {
  fc.assert(
    fc.property(someChoices, fc.integer({ min: 0, max: 120 }), (choices, maxBytes) => {
      const picks = allocate(choices, maxBytes);
      const all = allPicks(choices).map(total);
      if (!picks) {
        expect(all.every(({ bytes }) => bytes > maxBytes)).toBe(true);
        return;
      }
      const own = total(picks);
      expect(own.bytes).toBeLessThanOrEqual(maxBytes);
      const best = Math.min(...all.filter(({ bytes }) => bytes <= own.bytes).map(({ error }) => error));
      expect(own.error).toBe(best);
    }),
  );
});

test("errs no more with more bytes", () => {
  fc.assert(
    fc.property(someChoices, (choices) => {
      let last = Infinity;
      for (let maxBytes = 0; maxBytes <= 120; maxBytes += 5) {
        const picks = allocate(choices, maxBytes);
        if (!picks) continue;
        const { error } = total(picks);
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

test("finds all directions of a product of thin factors, at right angles and by size", async () => {
  const [rows, columns] = [60, 45];
  const values = plainProduct(rows, columns, 5, 1);
  const { sizes, left, right } = (await lowRank(products, matrix(rows, columns, values), 8, 0.5))!;
  const rank = sizes.length;
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

test("finds no directions that hold half of noise", async () => {
  const random = seededRandom(1);
  const noise = Float32Array.from({ length: 200 * 150 }, () => randomNormal(random));
  expect(await lowRank(products, matrix(200, 150, noise), 8, 0.5)).toBeUndefined();
});

test("reads a set of neurons back from its bits", () => {
  fc.assert(
    fc.property(fc.uniqueArray(fc.integer({ min: 0, max: 76 })), (list) => {
      const neurons = Int32Array.from(list).toSorted();
      expect(neuronsOf(maskOf(neurons, 77), 77, neurons.length)).toEqual(neurons);
      expect(neuronsOf(maskOf(neurons, 77), 77, neurons.length + 1)).toBeUndefined();
    }),
  );
  expect(neuronsOf(Uint8Array.of(0b1000_0000), 7, 1)).toBeUndefined();
});

test.each([0, 0.2])("finds neurons again with noise of %f, each once", async (noise) => {
  const random = seededRandom(9);
  const [hiddenSize, count] = [24, 50];
  const dense = matrix(
    count,
    hiddenSize,
    Array.from({ length: count * hiddenSize }, () => randomNormal(random)),
  );
  const picked = Array.from({ length: count }, (_, at) => (at * 7) % count).slice(0, 30);
  const rows = picked.flatMap((row) => [...dense.data.subarray(row * hiddenSize, (row + 1) * hiddenSize)]);
  const expert = matrix(
    30,
    hiddenSize,
    rows.map((value) => value + noise * randomNormal(random)),
  );
  expect(await matchNeurons(products, expert, dense)).toEqual(Int32Array.from(picked));
});

test("matches unchanged neurons to their own where others are near", async () => {
  const dense = matrix(3, 2, [1, 0, 1.1, 0, 5, 0]);
  expect(await matchNeurons(products, matrix(2, 2, [1.04, 0, 1, 0]), dense)).toEqual(Int32Array.of(1, 0));
});

const filled = (rows: number): Matrix => matrix(rows, 4, new Float64Array(4 * rows).fill(1));

test("gives out equal dense neurons one by one, and never more than there are", async () => {
  expect((await matchNeurons(products, filled(3), filled(3)))!.toSorted()).toEqual(Int32Array.of(0, 1, 2));
  expect(await matchNeurons(products, filled(4), filled(3))).toBeUndefined();
});
