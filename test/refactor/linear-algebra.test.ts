import { afterAll, beforeAll, expect, test } from "vitest";
import {
  invertPositiveDefinite,
  matrix,
  submatrix,
  type Matrix,
  Products,
} from "../../packages/refactor/src/linear-algebra/matrix.ts";
import { plainSolve } from "../oracles/plain-solve.ts";
import { randomNormal, seededRandom } from "../support/random.ts";
import { largestDifference } from "../support/running-model.ts";

let products: Products;
beforeAll(async () => {
  products = await Products.open(2);
});
afterAll(() => products.dispose());

/** Makes `x xᵀ + ridge` with `x` of `rank` columns. */
async function positiveDefinite(n: number, rank: number, ridge: number, seed: number): Promise<Matrix> {
  const random = seededRandom(seed);
  const x = matrix(
    n,
    rank,
    Array.from({ length: n * rank }, () => randomNormal(random)),
  );
  const turned = matrix(rank, n);
  for (let i = 0; i < n; i++) for (let j = 0; j < rank; j++) turned.data[j * n + i] = x.data[i * rank + j] as number;
  const gram = await products.multiply(x, turned);
  for (let i = 0; i < n; i++) gram.data[i * n + i] = (gram.data[i * n + i] as number) + ridge;
  return gram;
}

function nested({ rows, columns, data }: Matrix): number[][] {
  return Array.from({ length: rows }, (_, i) => Array.from(data.subarray(i * columns, (i + 1) * columns)));
}

test.each([1, 2, 7, 96, 97, 131, 200])("inverts %i rows like plain elimination", async (n) => {
  const a = await positiveDefinite(n, 2 * n, 0.1, n);
  const identity = Array.from({ length: n }, (_, i) => Array.from({ length: n }, (_unused, j) => (i === j ? 1 : 0)));
  const expected = plainSolve(nested(a), identity);
  const inverse = nested(await invertPositiveDefinite(a, products)).flat();
  const scale = Math.max(...expected.flat().map(Math.abs));
  expect(largestDifference(inverse, expected.flat()) / scale).toBeLessThan(1e-10);
});

test("inverts a matrix that is definite only by its ridge", async () => {
  const a = await positiveDefinite(300, 40, 1e-3, 5);
  const inverse = await invertPositiveDefinite(a, products);
  const product = await products.multiply(a, inverse);
  const identity = Float64Array.from({ length: 300 * 300 }, (_, at) => (at % 301 === 0 ? 1 : 0));
  expect(largestDifference(product.data, identity)).toBeLessThan(1e-5);
});

test("returns an exactly symmetric inverse", async () => {
  const inverse = await invertPositiveDefinite(await positiveDefinite(210, 300, 0.01, 6), products);
  const turned = inverse.data.map((_, at) => inverse.data[(at % 210) * 210 + Math.floor(at / 210)] as number);
  expect(inverse.data).toEqual(turned);
});

test("rejects a matrix that is not positive definite", async () => {
  await expect(invertPositiveDefinite(matrix(2, 2, [1, 2, 2, 1]), products)).rejects.toThrow(RangeError);
});

test("multiplies, subtracts and picks like plain loops", async () => {
  const a = matrix(2, 3, [1, 2, 3, 4, 5, 6]);
  const b = matrix(3, 2, [1, 0, 0, 1, 1, 1]);
  expect(Array.from((await products.multiply(a, b)).data)).toEqual([4, 5, 10, 11]);
  expect(Array.from((await products.subtract(matrix(2, 2, [1, 1, 1, 1]), a, b)).data)).toEqual([-3, -4, -9, -10]);
  expect(Array.from(submatrix(a, [1, 0], [2, 0]).data)).toEqual([6, 4, 3, 1]);
});
