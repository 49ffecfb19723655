// The few directions in which a matrix is largest, by a randomised singular value decomposition.

import { seededRandom } from "@readme-moe/core";

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
export function lowRank(
  values: Float32Array,
  rows: number,
  columns: number,
  maxRank: number,
  worthwhile: number,
): LowRank | undefined {
  const width = Math.min(rows, columns, maxRank + MORE_DIRECTIONS);
  const random = seededRandom(SEED);
  let right: readonly Float64Array[] = Array.from({ length: width }, () =>
    Float64Array.from({ length: columns }, () => random() - 0.5),
  );
  let left = orthonormal(right.map((one) => timesColumn(values, rows, columns, one)));
  const all = values.reduce((sum, value) => sum + value * value, 0);
  right = left.map((one) => timesRow(values, rows, columns, one));
  if (right.reduce((sum, one) => sum + dot(one, one), 0) < worthwhile * all) return undefined;
  left = orthonormal(orthonormal(right).map((one) => timesColumn(values, rows, columns, one)));
  right = left.map((one) => timesRow(values, rows, columns, one));
  // What is left is small: `B = right` has few rows, and the eigenvectors of `B Bᵀ` turn it into singular directions.
  const { values: squares, vectors } = symmetricEigen(right.map((one) => right.map((other) => dot(one, other))));
  const order = squares.map((_, index) => index).toSorted((a, b) => (squares[b] as number) - (squares[a] as number));
  const kept = order.slice(0, maxRank).filter((index) => (squares[index] as number) > 1e-12 * (all || 1));
  const sizes = Float32Array.from(kept, (index) => Math.sqrt(squares[index] as number));
  const turned = (of: readonly Float64Array[], index: number): Float64Array =>
    combined(
      of,
      vectors.map((row) => row[index] as number),
    );
  return {
    rank: kept.length,
    sizes,
    left: flat(
      kept.map((index) => turned(left, index)),
      rows,
    ),
    right: flat(
      kept.map((index, at) => turned(right, index).map((value) => value / (sizes[at] as number))),
      columns,
    ),
  };
}

function timesColumn(values: Float32Array, rows: number, columns: number, vector: Float64Array): Float64Array {
  const result = new Float64Array(rows);
  for (let row = 0, at = 0; row < rows; row++) {
    let sum = 0;
    for (let column = 0; column < columns; column++) sum += (values[at++] as number) * (vector[column] as number);
    result[row] = sum;
  }
  return result;
}

function timesRow(values: Float32Array, rows: number, columns: number, vector: Float64Array): Float64Array {
  const result = new Float64Array(columns);
  for (let row = 0, at = 0; row < rows; row++) {
    const factor = vector[row] as number;
    for (let column = 0; column < columns; column++) {
      result[column] = (result[column] as number) + factor * (values[at++] as number);
    }
  }
  return result;
}

/** By Gram and Schmidt, twice; what depends on others becomes zero. */
function orthonormal(vectors: readonly Float64Array[]): readonly Float64Array[] {
  const result: Float64Array[] = [];
  for (const vector of vectors) {
    const own = Float64Array.from(vector);
    const before = Math.sqrt(dot(own, own));
    for (let round = 0; round < 2; round++) {
      for (const other of result) {
        const share = dot(own, other);
        for (let i = 0; i < own.length; i++) own[i] = (own[i] as number) - share * (other[i] as number);
      }
    }
    const length = Math.sqrt(dot(own, own));
    const scale = length > 1e-9 * before ? 1 / length : 0;
    result.push(own.map((value) => value * scale));
  }
  return result;
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number);
  return sum;
}

function combined(vectors: readonly Float64Array[], weights: readonly number[]): Float64Array {
  const result = new Float64Array((vectors[0] as Float64Array).length);
  vectors.forEach((vector, index) => {
    const weight = weights[index] as number;
    for (let i = 0; i < result.length; i++) result[i] = (result[i] as number) + weight * (vector[i] as number);
  });
  return result;
}

function flat(vectors: readonly Float64Array[], length: number): Float32Array {
  const result = new Float32Array(vectors.length * length);
  vectors.forEach((vector, index) => result.set(vector, index * length));
  return result;
}

/** Jacobi's rotations. @returns vectors by column */
function symmetricEigen(matrix: readonly (readonly number[])[]): {
  readonly values: readonly number[];
  readonly vectors: readonly (readonly number[])[];
} {
  const n = matrix.length;
  const a = matrix.map((row) => Float64Array.from(row));
  const v = matrix.map((_, row) => Float64Array.from({ length: n }, (__, column) => (row === column ? 1 : 0)));
  const total = a.reduce((sum, row) => sum + dot(row, row), 0);
  for (let sweep = 0; sweep < 30; sweep++) {
    let off = 0;
    for (let p = 0; p < n; p++) for (let q = p + 1; q < n; q++) off += (a[p]?.[q] as number) ** 2;
    if (off <= 1e-22 * total) break;
    for (let p = 0; p < n; p++) for (let q = p + 1; q < n; q++) rotate(a, v, p, q);
  }
  return { values: a.map((row, index) => row[index] as number), vectors: v.map((row) => Array.from(row)) };
}

function rotate(a: readonly Float64Array[], v: readonly Float64Array[], p: number, q: number): void {
  const [rowP, rowQ] = [a[p] as Float64Array, a[q] as Float64Array];
  const apq = rowP[q] as number;
  if (apq === 0) return;
  const theta = ((rowQ[q] as number) - (rowP[p] as number)) / (2 * apq);
  const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
  const c = 1 / Math.sqrt(t * t + 1);
  const s = t * c;
  const turn = (row: Float64Array): void => {
    const [x, y] = [row[p] as number, row[q] as number];
    row[p] = c * x - s * y;
    row[q] = s * x + c * y;
  };
  a.forEach(turn);
  v.forEach(turn);
  for (let i = 0; i < rowP.length; i++) {
    const [x, y] = [rowP[i] as number, rowQ[i] as number];
    rowP[i] = c * x - s * y;
    rowQ[i] = s * x + c * y;
  }
}
