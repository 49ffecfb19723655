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
  const d = new Float64Array(n);
  // U's rows times D, so that what is summed lies side by side.
  const scaled = matrix(n, n).data;
  for (let j = n - 1; j >= 0; j--) {
    const own = j * n;
    for (let i = j; i >= 0; i--) {
      let sum = a.data[i * n + j] as number;
      for (let k = j + 1; k < n; k++) sum -= (scaled[i * n + k] as number) * (u.data[own + k] as number);
      if (i < j) {
        scaled[i * n + j] = sum;
        u.data[i * n + j] = sum / (d[j] as number);
      } else if (sum > 0) {
        d[j] = sum;
        u.data[own + j] = 1;
      } else {
        throw new RangeError("Expected a positive definite matrix; a larger ridge makes it one");
      }
    }
  }
  return u;
}
