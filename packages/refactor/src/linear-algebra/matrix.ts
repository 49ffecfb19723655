/** Matrix of float64 in row-major order. */
export interface Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly data: Float64Array;
}

export function matrix(rows: number, columns: number, data?: ArrayLike<number>): Matrix {
  return { rows, columns, data: data ? new Float64Array(data) : new Float64Array(rows * columns) };
}

export function transposed({ rows, columns, data }: Matrix): Matrix {
  const result = matrix(columns, rows);
  for (let row = 0, at = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++, at++) result.data[column * rows + row] = data[at]!;
  }
  return result;
}

/** Copies the rows and columns with the given indices, in that order. */
export function submatrix(source: Matrix, rows: ArrayLike<number>, columns: ArrayLike<number>): Matrix {
  const result = matrix(rows.length, columns.length);
  for (let i = 0, at = 0; i < rows.length; i++) {
    const start = rows[i]! * source.columns;
    for (let j = 0; j < columns.length; j++) result.data[at++] = source.data[start + columns[j]!]!;
  }
  return result;
}

/** Copies the rows with the given indices, in that order. */
export function rowsOf(source: Matrix, rows: ArrayLike<number>): Matrix {
  const { columns } = source;
  const result = matrix(rows.length, columns);
  for (let i = 0; i < rows.length; i++) {
    const start = rows[i]! * columns;
    result.data.set(source.data.subarray(start, start + columns), i * columns);
  }
  return result;
}
