import { matrix, type Matrix } from "./matrix.ts";

/**
 * `U` of a symmetric positive definite matrix `U · D · Uᵀ`: ones on its diagonal, zeros left of it. `D` is a diagonal.
 *
 * @param a - what is left of its diagonal is not read
 * @throws {RangeError} when the matrix is not positive definite to the precision of float64
 */
export function upperFactor(a: Matrix): Matrix {
  const n = a.rows;
  const u = matrix(n, n);
  // U's rows times D, so that what is summed lies side by side.
  const scaled = matrix(n, n).data;
  const column = new Float64Array(n);
  for (let j = n - 1; j >= 0; j--) {
    for (let i = 0; i <= j; i++) column[i] = a.data[i * n + j] as number;
    subtractKnown(column, scaled, u.data, j, n);
    const pivot = column[j] as number;
    if (!(pivot > 0)) throw new RangeError("Expected a positive definite matrix; a larger ridge makes it one");
    for (let i = 0; i < j; i++) {
      scaled[i * n + j] = column[i] as number;
      u.data[i * n + j] = (column[i] as number) / pivot;
    }
    u.data[j * n + j] = 1;
  }
  return u;
}

/**
 * Takes from the numbers `[0, j]` of column `j` what the columns right of it account for. Four rows at a time: a sum alone waits for each
 * addition before the next.
 */
function subtractKnown(column: Float64Array, scaled: Float64Array, u: Float64Array, j: number, n: number): void {
  const own = j * n;
  let i = 0;
  for (; i + 3 <= j; i += 4) {
    const [one, two, three, four] = [i * n, (i + 1) * n, (i + 2) * n, (i + 3) * n];
    let first = column[i] as number;
    let second = column[i + 1] as number;
    let third = column[i + 2] as number;
    let fourth = column[i + 3] as number;
    for (let k = j + 1; k < n; k++) {
      const factor = u[own + k] as number;
      first -= (scaled[one + k] as number) * factor;
      second -= (scaled[two + k] as number) * factor;
      third -= (scaled[three + k] as number) * factor;
      fourth -= (scaled[four + k] as number) * factor;
    }
    column[i] = first;
    column[i + 1] = second;
    column[i + 2] = third;
    column[i + 3] = fourth;
  }
  for (; i <= j; i++) {
    let sum = column[i] as number;
    for (let k = j + 1; k < n; k++) sum -= (scaled[i * n + k] as number) * (u[own + k] as number);
    column[i] = sum;
  }
}
