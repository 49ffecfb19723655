import { matrix, transposed, type Matrix } from "./matrix.ts";
import type { Products } from "./products.ts";

// Below this size, loops are faster than calls of the runtime.
const SMALL = 96;

/**
 * The inverse of a symmetric positive definite matrix, by halves: with `A = [P Q; Qᵀ R]`, everything follows from the
 * inverses of `P` and of `R - Qᵀ P⁻¹ Q`, and products, which are where the work is.
 *
 * @throws {RangeError} when the matrix is not positive definite to the precision of float64
 */
export async function invertPositiveDefinite(a: Matrix, products: Products): Promise<Matrix> {
  const n = a.rows;
  if (n <= SMALL) return invertSmall(a);
  const half = n >> 1;
  const p = block(a, 0, half, 0, half);
  const q = block(a, 0, half, half, n);
  const r = block(a, half, n, half, n);
  const pInverse = await invertPositiveDefinite(p, products);
  const pq = await products.multiply(pInverse, q);
  const schur = symmetric(await products.subtract(r, transposed(q), pq));
  const schurInverse = await invertPositiveDefinite(schur, products);
  const corner = await products.multiply(pq, schurInverse); // -1 times the upper right
  const upperLeft = symmetric(await products.subtract(negated(pInverse), corner, transposed(pq)));
  return assemble(upperLeft, corner, schurInverse);
}

/** `[-upperLeft, -corner; -cornerᵀ, lowerRight]` */
function assemble(upperLeft: Matrix, corner: Matrix, lowerRight: Matrix): Matrix {
  const half = upperLeft.rows;
  const n = half + lowerRight.rows;
  const result = matrix(n, n);
  for (let i = 0; i < half; i++) {
    for (let j = 0; j < half; j++) result.data[i * n + j] = -(upperLeft.data[i * half + j] as number);
    for (let j = half; j < n; j++) {
      const value = -(corner.data[i * (n - half) + j - half] as number);
      result.data[i * n + j] = value;
      result.data[j * n + i] = value;
    }
  }
  for (let i = half; i < n; i++) {
    const from = (i - half) * (n - half);
    result.data.set(lowerRight.data.subarray(from, from + n - half), i * n + half);
  }
  return result;
}

function block(a: Matrix, firstRow: number, endRow: number, firstColumn: number, endColumn: number): Matrix {
  const columns = endColumn - firstColumn;
  const result = matrix(endRow - firstRow, columns);
  for (let i = firstRow; i < endRow; i++) {
    const from = i * a.columns;
    result.data.set(a.data.subarray(from + firstColumn, from + endColumn), (i - firstRow) * columns);
  }
  return result;
}

function negated({ rows, columns, data }: Matrix): Matrix {
  return { rows, columns, data: data.map((value) => -value) };
}

/** Rounding leaves a product of symmetric matrices a little askew, which would grow from level to level. */
function symmetric(a: Matrix): Matrix {
  const n = a.rows;
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < i; j++) {
      const mean = ((a.data[i * n + j] as number) + (a.data[j * n + i] as number)) / 2;
      a.data[i * n + j] = mean;
      a.data[j * n + i] = mean;
    }
  }
  return a;
}

/** By Cholesky's factor. */
function invertSmall(a: Matrix): Matrix {
  const n = a.rows;
  const l = choleskyFactor(a);
  const result = matrix(n, n);
  const column = new Float64Array(n);
  for (let k = 0; k < n; k++) {
    column.fill(0);
    column[k] = 1;
    for (let i = k; i < n; i++) {
      let sum = column[i] as number;
      for (let j = k; j < i; j++) sum -= (l[i * n + j] as number) * (column[j] as number);
      column[i] = sum / (l[i * n + i] as number);
    }
    for (let i = n - 1; i >= k; i--) {
      let sum = column[i] as number;
      for (let j = i + 1; j < n; j++) sum -= (l[j * n + i] as number) * (column[j] as number);
      const value = sum / (l[i * n + i] as number);
      column[i] = value;
      result.data[i * n + k] = value;
      result.data[k * n + i] = value;
    }
  }
  return result;
}

function choleskyFactor(a: Matrix): Float64Array {
  const n = a.rows;
  const l = new Float64Array(n * n);
  for (let j = 0; j < n; j++) {
    for (let i = j; i < n; i++) {
      let sum = a.data[i * n + j] as number;
      for (let k = 0; k < j; k++) sum -= (l[i * n + k] as number) * (l[j * n + k] as number);
      if (i > j) l[i * n + j] = sum / (l[j * n + j] as number);
      else if (sum > 0) l[j * n + j] = Math.sqrt(sum);
      else throw new RangeError("Expected a positive definite matrix; a larger ridge makes it one");
    }
  }
  return l;
}
