/** Some rows of a table `[rows, width]`, in the order in which they are named. */
export function pickRows(table: Float32Array, rows: ArrayLike<number>, width: number): Float32Array {
  const picked = new Float32Array(rows.length * width);
  for (let index = 0; index < rows.length; index++) {
    const row = rows[index] as number;
    picked.set(table.subarray(row * width, (row + 1) * width), index * width);
  }
  return picked;
}
