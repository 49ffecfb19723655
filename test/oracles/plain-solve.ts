// Solves linear equations by Gaussian elimination with pivots: slow, and independent of the tested code.

/** Computes `a⁻¹ · b`; `a` is `[n][n]`, `b` is `[n][m]`. */
export function plainSolve(a: readonly (readonly number[])[], b: readonly (readonly number[])[]): number[][] {
  const n = a.length;
  const rows = a.map((row, i) => [...row, ...(b[i] as readonly number[])]);
  for (let column = 0; column < n; column++) {
    let pivot = column;
    for (let i = column; i < n; i++) if (Math.abs(at(rows, i, column)) > Math.abs(at(rows, pivot, column))) pivot = i;
    [rows[column], rows[pivot]] = [rows[pivot] as number[], rows[column] as number[]];
    for (let i = 0; i < n; i++) {
      if (i === column) continue;
      const factor = at(rows, i, column) / at(rows, column, column);
      rows[i] = (rows[i] as number[]).map((value, j) => value - factor * at(rows, column, j));
    }
  }
  return rows.map((row, i) => row.slice(n).map((value) => value / at(rows, i, i)));
}

function at(rows: readonly (readonly number[])[], i: number, j: number): number {
  return rows[i]?.[j] as number;
}
