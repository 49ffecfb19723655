const LARGEST = 127;

/**
 * Rows of a weight `[numOut, numIn]` as int8 with one scale each: `weight ≈ scale · integer`.
 *
 * @returns the integers the other way round, `[numIn, numOut]`, as integer products take them, and the scales `[numOut]`
 */
export function quantizeRows(
  weights: Float32Array,
  numOut: number,
  numIn: number,
): { readonly transposed: Int8Array<ArrayBuffer>; readonly scales: Float32Array<ArrayBuffer> } {
  const transposed = new Int8Array(numIn * numOut);
  const scales = new Float32Array(numOut);
  for (let out = 0; out < numOut; out++) {
    let largest = 0;
    for (let i = out * numIn; i < (out + 1) * numIn; i++) largest = Math.max(largest, Math.abs(weights[i] as number));
    const scale = largest / LARGEST;
    scales[out] = scale;
    if (scale === 0) continue;
    for (let i = 0; i < numIn; i++) {
      transposed[i * numOut + out] = Math.round((weights[out * numIn + i] as number) / scale);
    }
  }
  return { transposed, scales };
}
