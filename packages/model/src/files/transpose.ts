/**
 * Transposes `[numRows, numColumns]` in squares, so that both sides stay in the processor's cache.
 *
 * @param into - receives the result, `[numColumns, numRows]`, at its beginning @default a new array
 * @returns `into`
 */
export function transpose(
  values: Float32Array,
  numRows: number,
  numColumns: number,
  into: Float32Array<ArrayBuffer> = new Float32Array(values.length),
): Float32Array<ArrayBuffer> {
  const side = 32;
  for (let top = 0; top < numRows; top += side) {
    for (let left = 0; left < numColumns; left += side) {
      const bottom = Math.min(numRows, top + side);
      const right = Math.min(numColumns, left + side);
      for (let row = top; row < bottom; row++) {
        for (let column = left; column < right; column++) {
          into[column * numRows + row] = values[row * numColumns + column] ?? 0;
        }
      }
    }
  }
  return into;
}
