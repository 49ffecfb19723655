import { matrix, type Matrix } from "./matrix.ts";

/**
 * Returns the unit upper triangular `U` of a symmetric positive definite matrix `U · D · Uᵀ` with a diagonal `D`.
 *
 * @param a - only its upper triangle is read
 * @throws {RangeError} when the matrix is not positive definite to the precision of float64
 */
export function upperFactor(a: Matrix): Matrix {
  const n = a.rows;
  const u = matrix(n, n);
  // Rows of U times D: the values of each sum are then adjacent.
  const scaled = matrix(n, n).data;
  const column = new Float64Array(n);
  for (let j = n - 1; j >= 0; j--) {
    for (let i = 0; i <= j; i++) column[i] = a.data[i * n + j]!;
    subtractKnown(column, scaled, u, j);
    const pivot = column[j]!;
    if (!(pivot > 0)) throw new RangeError("Expected a positive definite matrix; a larger ridge makes it one");
    for (let i = 0; i < j; i++) {
      scaled[i * n + j] = column[i]!;
      u.data[i * n + j] = column[i]! / pivot;
    }
    u.data[j * n + j] = 1;
  }
  return u;
}

/**
 * Subtracts from rows `[0, j]` of column `j` the contributions of the columns right of it. Processes four rows at a
 * time: the additions of a single sum would each wait for the one before.
 */
function subtractKnown(column: Float64Array, scaled: Float64Array, { data: u, rows: n }: Matrix, j: number): void {
  const own = j * n;
  let i = 0;
  for (; i + 3 <= j; i += 4) {
    const [one, two, three, four] = [i * n, (i + 1) * n, (i + 2) * n, (i + 3) * n];
    let first = column[i]!;
    let second = column[i + 1]!;
    let third = column[i + 2]!;
    let fourth = column[i + 3]!;
    for (let k = j + 1; k < n; k++) {
      const factor = u[own + k]!;
      first -= scaled[one + k]! * factor;
      second -= scaled[two + k]! * factor;
      third -= scaled[three + k]! * factor;
      fourth -= scaled[four + k]! * factor;
    }
    column[i] = first;
    column[i + 1] = second;
    column[i + 2] = third;
    column[i + 3] = fourth;
  }
  for (; i <= j; i++) {
    let sum = column[i]!;
    for (let k = j + 1; k < n; k++) sum -= scaled[i * n + k]! * u[own + k]!;
    column[i] = sum;
  }
}
