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
  let left = orthonormal(await products.multiply(start, across));
  const all = dot(whole.data, whole.data);
  let right = await products.multiply(left, whole);
  if (dot(right.data, right.data) < worthwhile * all) return undefined;
  left = orthonormal(await products.multiply(orthonormal(right), across));
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

/** Rows by Gram and Schmidt, twice; what depends on others becomes zero. */
function orthonormal({ rows, columns, data }: Matrix): Matrix {
  const result = matrix(rows, columns, data);
  const vectors = Array.from({ length: rows }, (_, row) => result.data.subarray(row * columns, (row + 1) * columns));
  for (const [row, own] of vectors.entries()) {
    const before = Math.sqrt(dot(own, own));
    for (let round = 0; round < 2; round++) {
      for (const other of vectors.slice(0, row)) {
        const share = dot(own, other);
        for (let i = 0; i < columns; i++) own[i] = (own[i] as number) - share * (other[i] as number);
      }
    }
    const length = Math.sqrt(dot(own, own));
    const scale = length > 1e-9 * before ? 1 / length : 0;
    for (let i = 0; i < columns; i++) own[i] = (own[i] as number) * scale;
  }
  return result;
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number);
  return sum;
}

/** Jacobi's rotations. @returns vectors by row */
function symmetricEigen(symmetric: Matrix): { readonly values: readonly number[]; readonly vectors: Matrix } {
  const n = symmetric.rows;
  const { data: a } = matrix(n, n, symmetric.data);
  const vectors = matrix(n, n);
  for (let i = 0; i < n; i++) vectors.data[i * n + i] = 1;
  const total = dot(a, a);
  for (let sweep = 0; sweep < 30; sweep++) {
    let off = 0;
    for (let p = 0; p < n; p++) for (let q = p + 1; q < n; q++) off += (a[p * n + q] as number) ** 2;
    if (off <= 1e-22 * total) break;
    for (let p = 0; p < n; p++) for (let q = p + 1; q < n; q++) rotate(a, vectors.data, n, p, q);
  }
  return { values: Array.from({ length: n }, (_, i) => a[i * n + i] as number), vectors };
}

function rotate(a: Float64Array, vectors: Float64Array, n: number, p: number, q: number): void {
  const apq = a[p * n + q] as number;
  if (apq === 0) return;
  const theta = ((a[q * n + q] as number) - (a[p * n + p] as number)) / (2 * apq);
  const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
  const c = 1 / Math.sqrt(t * t + 1);
  const s = t * c;
  const turn = (of: Float64Array, x: number, y: number): void => {
    const [atX, atY] = [of[x] as number, of[y] as number];
    of[x] = c * atX - s * atY;
    of[y] = s * atX + c * atY;
  };
  for (let i = 0; i < n; i++) turn(a, i * n + p, i * n + q);
  for (let i = 0; i < n; i++) turn(a, p * n + i, q * n + i);
  for (let i = 0; i < n; i++) turn(vectors, p * n + i, q * n + i);
}
