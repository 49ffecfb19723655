/** `[numRows, numColumns]` -> `[numColumns, numRows]`. In squares, so that both sides stay in the processor's cache. */
export function transpose(values: Float32Array, numRows: number, numColumns: number): Float32Array<ArrayBuffer> {
  const side = 32;
  const transposed = new Float32Array(values.length);
  for (let top = 0; top < numRows; top += side) {
    for (let left = 0; left < numColumns; left += side) {
      const bottom = Math.min(numRows, top + side);
      const right = Math.min(numColumns, left + side);
      for (let row = top; row < bottom; row++) {
        for (let column = left; column < right; column++) {
          transposed[column * numRows + row] = values[row * numColumns + column] as number;
        }
      }
    }
  }
  return transposed;
}
