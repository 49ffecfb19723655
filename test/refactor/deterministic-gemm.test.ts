// Products have the same bits for any number of threads, and those of the plain product where it is divided by rows.

import { GraphBuilder, GraphSession, operators, type GraphTensor } from "@readme-moe/refactor/graphs";
import { expect, test } from "vitest";
import { dependsOnThreads, deterministicGemm } from "../../packages/refactor/src/linear-algebra/deterministic-gemm.ts";
import { Products, matrix, type Matrix } from "../../packages/refactor/src/linear-algebra/matrix.ts";
import { machinesOf } from "../../packages/refactor/src/tasks/fit-work.ts";
import { seededRandom } from "../support/random.ts";

const THREADS = [1, 2, 16];
/** Rows, inner length and columns. */
const SIZES = [
  [40, 300, 141],
  [67, 331, 150],
  [33, 576, 576],
  [141, 331, 67],
  [64, 128, 500],
] as const;

const random = seededRandom(4);

function floats(rows: number, columns: number): GraphTensor & { readonly data: Float32Array } {
  return { data: Float32Array.from({ length: rows * columns }, () => random() - 0.5), dims: [rows, columns] };
}

test.each(SIZES)("a product of %i rows, sums of %i and %i columns", async (rows, inner, columns) => {
  const size = { rows, inner, columns };
  const feeds = { x: floats(rows, inner), w: floats(columns, inner), v: floats(inner, columns), b: floats(1, columns) };
  const g = new GraphBuilder("steady");
  const [x, w, v, b] = (["x", "w", "v", "b"] as const).map((name) => g.input(name, "float32", [name, `${name}2`]));
  g.output("biased", deterministicGemm(g, x!, w!, { size, bias: b! }), "float32", ["m", "n"]);
  g.output("plain", deterministicGemm(g, x!, v!, { size, transB: false }), "float32", ["m", "n"]);
  g.output("runtime", operators.Gemm(g, x!, v!, { transB: false }), "float32", ["m", "n"]);
  const results = [];
  for (const threads of THREADS) {
    const session = await GraphSession.open(g.build(), { threads });
    const { biased, plain, runtime } = await session.run(feeds);
    await session.dispose();
    results.push({ biased: biased!.data, plain: plain!.data, runtime: runtime!.data });
  }
  for (const name of ["biased", "plain"] as const) expect(numberOfResults(results.map((one) => one[name]))).toBe(1);
  // The rule names every product that the runtime computes otherwise with other threads.
  if (!dependsOnThreads(size)) expect(numberOfResults(results.map(({ runtime }) => runtime))).toBe(1);
  const found = results[0]!.biased;
  for (let row = 0; row < rows; row += 7) {
    for (let column = 0; column < columns; column += 5) {
      let sum = feeds.b.data[column]!;
      for (let k = 0; k < inner; k++) sum += feeds.x.data[row * inner + k]! * feeds.w.data[column * inner + k]!;
      expect(found[row * columns + column]).toBeCloseTo(sum, 3);
    }
  }
});

test.each([
  [60, 300, 61],
  [61, 300, 60],
])("float64 products of %i rows, sums of %i and %i columns", async (rows, inner, columns) => {
  const [a, b, c] = [numbers(rows, inner), numbers(inner, columns), numbers(rows, columns)];
  const results = [];
  for (const threads of THREADS) {
    const products = await Products.open(threads);
    results.push([(await products.multiply(a, b)).data, (await products.subtract(c, a, b)).data]);
    await products.dispose();
  }
  const [[product, rest] = []] = results;
  for (const place of [0, 1]) expect(numberOfResults(results.map((both) => both[place]!))).toBe(1);
  const at = columns + 3;
  let sum = 0;
  for (let k = 0; k < inner; k++) sum += a.data[inner + k]! * b.data[k * columns + 3]!;
  expect(product![at]).toBeCloseTo(sum, 9);
  expect(rest![at]).toBeCloseTo(c.data[at]! - sum, 9);
});

test("machines with up to 16 threads have the same arithmetic", async () => {
  const [one, ...others] = await Promise.all([1, 2, 16, 24].map((threads) => machinesOf("model", threads)));
  expect(others.map((other) => other === one)).toEqual([true, true, false]);
});

function numbers(rows: number, columns: number): Matrix {
  return matrix(rows, columns, Array.from({ length: rows * columns }, random));
}

/** Counts different results, by their bits. */
function numberOfResults(results: readonly GraphTensor["data"][]): number {
  const bits = results.map(({ buffer, byteOffset, byteLength }) => Buffer.from(buffer, byteOffset, byteLength));
  return new Set(bits.map((one) => one.toString("base64"))).size;
}
