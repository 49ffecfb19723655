/**
 * Computes the log-probabilities of all tokens except the first, given those before them.
 *
 * @param logits - of all positions, `[tokens, vocabSize]`
 */
export function sumLogProbabilities(logits: Float32Array, tokenIds: readonly number[]): number {
  const vocabSize = logits.length / tokenIds.length;
  let sum = 0;
  for (let position = 0; position + 1 < tokenIds.length; position++) {
    const row = logits.subarray(position * vocabSize, (position + 1) * vocabSize);
    let largest = -Infinity;
    for (const value of row) largest = Math.max(largest, value);
    let total = 0;
    for (const value of row) total += Math.exp(value - largest);
    sum += (row[tokenIds[position + 1] as number] as number) - largest - Math.log(total);
  }
  return sum;
}
