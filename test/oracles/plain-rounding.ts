// Rounding of rows of floats to bytes, number by number.

/** Rounded rows: bytes `[row][numIn]`, each 128 more than its number, and a scale for each row. */
export interface RoundedRows {
  readonly bytes: readonly number[];
  readonly scales: readonly number[];
}

// Below this scale, quotients are not exact enough to stay within a byte.
const SMALLEST = 2 ** -126;

/** Rounds rows so that the largest magnitude of each becomes 127. @param values - `[row][numIn]` */
export function roundRows(values: Float32Array, numIn: number): RoundedRows {
  const bytes: number[] = [];
  const scales: number[] = [];
  for (let first = 0; first < values.length; first += numIn) {
    const row = values.subarray(first, first + numIn);
    const scale = Math.fround(largestMagnitude(row) / 127);
    const isZero = scale < SMALLEST;
    for (const value of row) bytes.push(isZero ? 128 : (value / scale + 128.5) & 255);
    scales.push(isZero ? 0 : scale);
  }
  return { bytes, scales };
}

function largestMagnitude(values: Float32Array): number {
  let largest = 0;
  // A NaN stays the largest.
  for (const value of values) largest = Math.max(largest, Math.abs(value));
  return largest;
}
