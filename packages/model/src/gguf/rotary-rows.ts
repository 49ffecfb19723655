// The rows of q_proj and k_proj belong to rotary pairs. Hugging Face lists, head by head, the first
// halves of all pairs and then the second ones; llama.cpp, for the llama architecture, lists pair by pair.

/**
 * The row of a llama GGUF file that is row `hfRow` of the Hugging Face tensor.
 * @param headSize - rows per head, even
 */
function ggufRowOf(hfRow: number, headSize: number): number {
  const inHead = hfRow % headSize;
  const half = headSize / 2;
  return hfRow - inHead + (inHead < half ? 2 * inHead : 2 * (inHead - half) + 1);
}

/**
 * Reorders the rows of q_proj or k_proj (weight or bias) for a llama GGUF file.
 *
 * @param values - `[numHeads * headSize, rowLength]` in Hugging Face order
 * @returns the same in the file's order, in fresh memory
 * @throws {RangeError} when the rows are no whole heads of even size
 */
export function toGgufRowOrder(values: Float32Array, numRows: number, numHeads: number): Float32Array {
  const headSize = numRows / numHeads;
  if (!Number.isInteger(headSize / 2) || values.length % numRows !== 0) {
    throw new RangeError(
      `Expected \`numRows\` to be \`numHeads\` (${numHeads}) heads of even size, got \`${numRows}\` (number)`,
    );
  }
  const rowLength = values.length / numRows;
  const reordered = new Float32Array(values.length);
  for (let row = 0; row < numRows; row++) {
    reordered.set(values.subarray(row * rowLength, (row + 1) * rowLength), ggufRowOf(row, headSize) * rowLength);
  }
  return reordered;
}

/**
 * Picks rows in Hugging Face order out of those of a llama GGUF file.
 *
 * @param fileRows - the bytes of file rows `[firstFileRow, …)`, which hold the whole heads that `[from, to)` touches
 * @param bytesPerRow - at least 1
 * @returns the bytes of rows `[from, to)` of the Hugging Face tensor, in fresh memory
 */
export function pickHfRows(
  fileRows: Uint8Array,
  firstFileRow: number,
  bytesPerRow: number,
  headSize: number,
  rows: { readonly from: number; readonly to: number },
): Uint8Array {
  const picked = new Uint8Array((rows.to - rows.from) * bytesPerRow);
  for (let row = rows.from; row < rows.to; row++) {
    const at = (ggufRowOf(row, headSize) - firstFileRow) * bytesPerRow;
    picked.set(fileRows.subarray(at, at + bytesPerRow), (row - rows.from) * bytesPerRow);
  }
  return picked;
}
