import { middleOf, type BlockWeights } from "./block-weights.ts";

const LARGEST = 127;

/** 8 bits, one scale per block: the largest magnitude becomes 127. */
export function roundToBlocks(weights: Float32Array, blockSize: number): BlockWeights {
  const middle = middleOf(8);
  const quants = new Uint8Array(weights.length).fill(middle);
  const scales = new Float32Array(weights.length / blockSize);
  for (let block = 0; block < scales.length; block++) {
    const [start, end] = [block * blockSize, (block + 1) * blockSize];
    let largest = 0;
    for (let i = start; i < end; i++) largest = Math.max(largest, Math.abs(weights[i] as number));
    const scale = largest / LARGEST;
    scales[block] = scale;
    if (scale === 0) continue;
    for (let i = start; i < end; i++) quants[i] = Math.round((weights[i] as number) / scale) + middle;
  }
  return { bits: 8, blockSize, hasOffsets: false, quants, scales, offsets: new Float32Array(0) };
}
