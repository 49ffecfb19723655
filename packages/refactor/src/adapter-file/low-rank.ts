// The few directions in which a matrix is largest, by a randomised singular value decomposition.

import { seededRandom } from "@readme-moe/core";
import { matrix, rowsOf, transposed, type Matrix } from "../linear-algebra/matrix.ts";
import type { Products } from "../linear-algebra/products.ts";

/** Sum of `sizes[k] · left[k] ⊗ right[k]`. */
export interface LowRank {
  readonly rank: number;
  /** Singular values, falling. */
  readonly sizes: Float32Array; // [rank]
  /** Unit vectors. */
  readonly left: Float32Array; // [rank, rows]
  readonly right: Float32Array; // [rank, columns]
}

const MORE_DIRECTIONS = 8;
const SEED = 1;
// Few enough that what they have of each other is little work, many enough for a product.
const ROWS_TOGETHER = 16;

/**
 * @param values - `[rows, columns]`
 * @param worthwhile - the least share of all squares that the directions are to hold
 * @returns `undefined` where they hold less
 */
export async function lowRank(
  products: Products,
  values: Float32Array,
  rows: number,
  columns: number,
  maxRank: number,
  worthwhile: number,
): Promise<LowRank | undefined> {
  const width = Math.min(rows, columns, maxRank + MORE_DIRECTIONS);
  const whole = matrix(rows, columns, values);
  const across = transposed(whole);
  const random = seededRandom(SEED);
  const start = matrix(
    width,
    columns,
    Float64Array.from({ length: width * columns }, () => random() - 0.5),
  );
  let left = await orthonormal(products, await products.multiply(start, across));
  const all = dot(whole.data, whole.data);
  let right = await products.multiply(left, whole);
  if (dot(right.data, right.data) < worthwhile * all) return undefined;
  left = await orthonormal(products, await products.multiply(await orthonormal(products, right), across));
  right = await products.multiply(left, whole);
  // What is left is small: `B = right` has few rows, and the eigenvectors of `B Bᵀ` turn it into singular directions.
  const { values: squares, vectors } = symmetricEigen(await products.multiply(right, transposed(right)));
  const order = Array.from(squares.keys()).toSorted((a, b) => (squares[b] as number) - (squares[a] as number));
  const kept = order.slice(0, maxRank).filter((index) => (squares[index] as number) > 1e-12 * (all || 1));
  const sizes = Float32Array.from(kept, (index) => Math.sqrt(squares[index] as number));
  if (kept.length === 0) return { rank: 0, sizes, left: new Float32Array(0), right: new Float32Array(0) };
  const turn = rowsOf(vectors, kept);
  const [turnedLeft, turnedRight] = [await products.multiply(turn, left), await products.multiply(turn, right)];
  return {
    rank: kept.length,
    sizes,
    left: Float32Array.from(turnedLeft.data),
    right: dividedRows(turnedRight, sizes),
  };
}

function dividedRows({ rows, columns, data }: Matrix, by: Float32Array): Float32Array {
  const result = new Float32Array(data.length);
  for (let row = 0, at = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++, at++) result[at] = (data[at] as number) / (by[row] as number);
  }
  return result;
}

/**
 * Rows by Gram and Schmidt, twice; what depends on others becomes zero. Some rows at a time, whose shares of those before them are
 * products of matrices.
 */
async function orthonormal(products: Products, { rows, columns, data }: Matrix): Promise<Matrix> {
  const result = matrix(rows, columns, data);
  for (let from = 0; from < rows; from += ROWS_TOGETHER) {
    const to = Math.min(rows, from + ROWS_TOGETHER);
    const own = result.data.subarray(from * columns, to * columns);
    const before: Matrix = { rows: from, columns, data: result.data.subarray(0, from * columns) };
    const across = transposed(before);
    const lengths = lengthsOf(own, columns);
    for (let round = 0; round < 2; round++) {
      if (from > 0) {
        const block = { rows: to - from, columns, data: own };
        const shares = await products.multiply(block, across);
        own.set((await products.subtract(block, shares, before)).data);
      }
      // Of unit vectors from the second round on.
      orthonormalizeAlone(own, columns, round === 0 ? lengths : lengths.fill(1));
    }
  }
  return result;
}

/** @param lengths - what rows were as long as, before those of others were taken from them */
function orthonormalizeAlone(rows: Float64Array, columns: number, lengths: Float64Array): void {
  for (let start = 0, row = 0; start < rows.length; start += columns, row++) {
    const own = rows.subarray(start, start + columns);
    for (let other = 0; other < start; other += columns) {
      let share = 0;
      for (let i = 0; i < columns; i++) share += (own[i] as number) * (rows[other + i] as number);
      for (let i = 0; i < columns; i++) own[i] = (own[i] as number) - share * (rows[other + i] as number);
    }
    const length = Math.sqrt(dot(own, own));
    const scale = length > 1e-9 * (lengths[row] as number) ? 1 / length : 0;
    for (let i = 0; i < columns; i++) own[i] = (own[i] as number) * scale;
  }
}

function lengthsOf(rows: Float64Array, columns: number): Float64Array {
  return Float64Array.from({ length: rows.length / columns }, (_, row) => {
    const own = rows.subarray(row * columns, (row + 1) * columns);
    return Math.sqrt(dot(own, own));
  });
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number);
  return sum;
}

/** Jacobi's rotations. @param symmetric - what is left of its diagonal is not read @returns vectors by row */
function symmetricEigen(symmetric: Matrix): { readonly values: readonly number[]; readonly vectors: Matrix } {
  const n = symmetric.rows;
  const { data: a } = matrix(n, n, symmetric.data);
  for (let p = 0; p < n; p++) for (let q = p + 1; q < n; q++) a[q * n + p] = a[p * n + q] as number;
  const vectors = matrix(n, n);
  for (let i = 0; i < n; i++) vectors.data[i * n + i] = 1;
  const total = dot(a, a);
  for (let sweep = 0; sweep < 30; sweep++) {
    let off = 0;
    for (let p = 0; p < n; p++) for (let q = p + 1; q < n; q++) off += (a[p * n + q] as number) ** 2;
    if (off <= 1e-22 * total) break;
    // So small that all such together are not what goes on for: most of the last sweep are.
    const least = Math.sqrt((1e-23 * total) / (n * n));
    for (let p = 0; p < n; p++) for (let q = p + 1; q < n; q++) rotate(a, vectors.data, n, p, q, least);
  }
  return { values: Array.from({ length: n }, (_, i) => a[i * n + i] as number), vectors };
}

/** Makes `a[p][q]` zero, where it is larger than `least`. */
function rotate(a: Float64Array, vectors: Float64Array, n: number, p: number, q: number, least: number): void {
  const [rowP, rowQ] = [p * n, q * n];
  const apq = a[rowP + q] as number;
  if (Math.abs(apq) <= least) return;
  const [app, aqq] = [a[rowP + p] as number, a[rowQ + q] as number];
  const theta = (aqq - app) / (2 * apq);
  const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
  const c = 1 / Math.sqrt(t * t + 1);
  const s = t * c;
  // Rows are turned, and columns, which hold the same, are copied.
  for (let i = 0; i < n; i++) {
    const [x, y] = [a[rowP + i] as number, a[rowQ + i] as number];
    a[rowP + i] = a[i * n + p] = c * x - s * y;
    a[rowQ + i] = a[i * n + q] = s * x + c * y;
  }
  a[rowP + p] = app - t * apq;
  a[rowQ + q] = aqq + t * apq;
  a[rowP + q] = a[rowQ + p] = 0;
  for (let i = 0; i < n; i++) {
    const [x, y] = [vectors[rowP + i] as number, vectors[rowQ + i] as number];
    vectors[rowP + i] = c * x - s * y;
    vectors[rowQ + i] = s * x + c * y;
  }
}
