// Finds the few directions in which a matrix is largest, by a randomised singular value decomposition.

import { seededRandom } from "@readme-moe/core";
import { matrix, rowsOf, transposed, type Matrix, type Products } from "../linear-algebra/matrix.ts";

/** Sum over `k` of `sizes[k] · left[k] ⊗ right[k]`. */
export interface LowRank {
  /** Singular values, falling. */
  readonly sizes: Float32Array; // [rank]
  /** Unit vectors. */
  readonly left: Float32Array; // [rank, rows]
  readonly right: Float32Array; // [rank, columns]
}

const MORE_DIRECTIONS = 8;
const SEED = 1;
// Below this share of the squares, a direction is rounding.
const LEAST_SHARE = 1e-10;
// Few enough that their products with each other are little work, many enough for a product of matrices.
const ROWS_TOGETHER = 16;

/**
 * Approximates a matrix by at most `maxRank` directions.
 *
 * @returns `undefined` where the directions hold less than the share `worthwhile` of all squares
 */
export async function lowRank(
  products: Products,
  whole: Matrix,
  maxRank: number,
  worthwhile: number,
): Promise<LowRank | undefined> {
  const { rows, columns } = whole;
  const width = Math.min(rows, columns, maxRank + MORE_DIRECTIONS);
  const across = transposed(whole);
  const random = seededRandom(SEED);
  const start = Float64Array.from({ length: width * columns }, () => random() - 0.5);
  let left = await orthonormal(products, await products.multiply(matrix(width, columns, start), across));
  let right = await products.multiply(left, whole);
  if (squares(right.data) < worthwhile * squares(whole.data)) return undefined;
  left = await orthonormal(products, await products.multiply(await orthonormal(products, right), across));
  right = await products.multiply(left, whole);
  const { sizes, turn } = await principalAxes(products, right, maxRank);
  return {
    sizes: Float32Array.from(sizes),
    left: Float32Array.from((await products.multiply(turn, left)).data),
    right: Float32Array.from(dividedRows(await products.multiply(turn, right), sizes).data),
  };
}

/**
 * Makes rows orthonormal by Gram and Schmidt, twice. Rows that depend on others become zero. A few rows are done at a
 * time, so that removing the directions of earlier rows is a product of matrices.
 */
async function orthonormal(products: Products, { rows, columns, data }: Matrix): Promise<Matrix> {
  const result = matrix(rows, columns, data);
  for (let from = 0; from < rows; from += ROWS_TOGETHER) {
    const to = Math.min(rows, from + ROWS_TOGETHER);
    const block = { rows: to - from, columns, data: result.data.subarray(from * columns, to * columns) };
    const before = { rows: from, columns, data: result.data.subarray(0, from * columns) };
    const across = transposed(before);
    const lengths = Float64Array.from({ length: block.rows }, (_, row) =>
      Math.sqrt(squares(block.data.subarray(row * columns, (row + 1) * columns))),
    );
    for (let round = 0; round < 2; round++) {
      if (from > 0) {
        const shares = await products.multiply(block, across);
        block.data.set((await products.subtract(block, shares, before)).data);
      }
      // From the second round on, rows are unit vectors.
      orthonormalizeAlone(block, round === 0 ? lengths : lengths.fill(1));
    }
  }
  return result;
}

/** Makes a few rows orthonormal in place. @param lengths - of the rows, before the directions of others were removed */
function orthonormalizeAlone({ rows, columns, data }: Matrix, lengths: Float64Array): void {
  for (let row = 0; row < rows; row++) {
    const own = data.subarray(row * columns, (row + 1) * columns);
    for (let other = 0; other < row * columns; other += columns) {
      let share = 0;
      for (let i = 0; i < columns; i++) share += own[i]! * data[other + i]!;
      for (let i = 0; i < columns; i++) own[i] = own[i]! - share * data[other + i]!;
    }
    const length = Math.sqrt(squares(own));
    const scale = length > 1e-9 * lengths[row]! ? 1 / length : 0;
    for (let i = 0; i < columns; i++) own[i] = own[i]! * scale;
  }
}

/**
 * The rotation after which rows are at right angles and fall in size, and those sizes: eigenvectors of `rows · rowsᵀ`.
 */
async function principalAxes(
  products: Products,
  rows: Matrix,
  most: number,
): Promise<{ readonly sizes: readonly number[]; readonly turn: Matrix }> {
  const { values, vectors } = symmetricEigen(await products.multiply(rows, transposed(rows)));
  const least = LEAST_SHARE * Math.max(...values, 0);
  const kept = [...values.entries()].filter(([, square]) => square > least).toSorted(([, a], [, b]) => b - a);
  const used = kept.slice(0, most);
  return {
    sizes: used.map(([, square]) => Math.sqrt(square)),
    turn: rowsOf(
      vectors,
      used.map(([index]) => index),
    ),
  };
}

function dividedRows({ rows, columns, data }: Matrix, by: readonly number[]): Matrix {
  return { rows, columns, data: data.map((value, at) => value / (by[Math.floor(at / columns)] ?? 1)) };
}

export function squares(values: Float32Array | Float64Array): number {
  let sum = 0;
  for (const value of values) sum += value * value;
  return sum;
}

/** Diagonalises a symmetric matrix by Jacobi's rotations. Eigenvectors are rows. */
function symmetricEigen({ rows: n, data }: Matrix): { readonly values: Float64Array; readonly vectors: Matrix } {
  const a = new Float64Array(data);
  const turns = new Float64Array(n * n);
  for (let i = 0; i < n; i++) turns[i * n + i] = 1;
  const total = squares(a);
  for (let sweep = 0; sweep < 30; sweep++) {
    let off = 0;
    for (let p = 0; p < n; p++) off += squares(a.subarray(p * n + p + 1, (p + 1) * n));
    if (off <= 1e-22 * total) break;
    // Entries so small that all of them together do not count; most are in the last sweep.
    const least = Math.sqrt((1e-23 * total) / (n * n));
    for (let p = 0; p < n; p++) for (let q = p + 1; q < n; q++) rotate(a, turns, [n, p, q], least);
  }
  return { values: Float64Array.from({ length: n }, (_, i) => a[i * n + i] ?? 0), vectors: matrix(n, n, turns) };
}

/** Makes the entry at row `p`, column `q` zero, where it is larger than `least`. */
function rotate(
  a: Float64Array,
  vectors: Float64Array,
  [n, p, q]: readonly [number, number, number],
  least: number,
): void {
  const [rowP, rowQ] = [p * n, q * n];
  const apq = a[rowP + q] ?? 0;
  if (Math.abs(apq) <= least) return;
  const [app, aqq] = [a[rowP + p] ?? 0, a[rowQ + q] ?? 0];
  const theta = (aqq - app) / (2 * apq);
  const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
  const c = 1 / Math.sqrt(t * t + 1);
  const s = t * c;
  turnRows(a, [n, rowP, rowQ], c, s);
  turnRows(vectors, [n, rowP, rowQ], c, s);
  // Columns hold the same as rows.
  for (let i = 0; i < n; i++) {
    a[i * n + p] = a[rowP + i]!;
    a[i * n + q] = a[rowQ + i]!;
  }
  a[rowP + p] = app - t * apq;
  a[rowQ + q] = aqq + t * apq;
  a[rowP + q] = a[rowQ + p] = 0;
}

/** Rotates two rows of `n` numbers, which begin at `rowP` and `rowQ`. */
function turnRows(
  rows: Float64Array,
  [n, rowP, rowQ]: readonly [number, number, number],
  cosine: number,
  sine: number,
): void {
  for (let i = 0; i < n; i++) {
    const x = rows[rowP + i]!;
    const y = rows[rowQ + i]!;
    rows[rowP + i] = cosine * x - sine * y;
    rows[rowQ + i] = sine * x + cosine * y;
  }
}
