// Quantises weights to 8 and 4 bits like the quantisers of onnxruntime, which the usual export scripts call. The result
// is coarser than our own int8, but it is what other readers expect.

/** Meaning of a tensor's integers: `scale · (integer - zeroPoint)`. */
export interface Grid {
  readonly scale: number;
  readonly zeroPoint: number;
}

/** Computes the grid of int8, without a zero point: the largest magnitude is 127. */
export function symmetricGrid(weights: Float32Array): Grid {
  let largest = 0;
  for (const weight of weights) largest = Math.max(largest, Math.abs(weight));
  return { scale: Math.fround(largest / 127) || 1, zeroPoint: 0 };
}

/** Computes the grid of uint8, over the whole range of the values; 0 is exact. */
export function asymmetricGrid(weights: Float32Array): Grid {
  let [smallest, largest] = [0, 0];
  for (const weight of weights) {
    smallest = Math.min(smallest, weight);
    largest = Math.max(largest, weight);
  }
  const scale = (largest - smallest) / 255 || 1;
  return { scale: Math.fround(scale), zeroPoint: roundToEven(-smallest / scale) };
}

/** Rounds weights to the grid. */
export function toGrid(weights: Float32Array, { scale, zeroPoint }: Grid, type: "int8" | "uint8"): Uint8Array {
  const [least, most] = type === "int8" ? [-127, 127] : [0, 255];
  const bytes = new Uint8Array(weights.length);
  for (let i = 0; i < weights.length; i++) {
    const level = roundToEven(Math.fround(weights[i]! / scale)) + zeroPoint;
    bytes[i] = Math.min(most, Math.max(least, level)); // negative ones wrap around: two's complement
  }
  return bytes;
}

export const BLOCK_SIZE = 32;

/** Weights in blocks of 32 along their rows. */
export interface BlockWeights {
  /** Two values per byte, the first in the low half; `value / scale + 8`. `[rows, blocks, 16]` */
  readonly values: Uint8Array<ArrayBuffer>;
  readonly scales: Float32Array<ArrayBuffer>; // [rows, blocks]
}

/** Quantises to 4 bits without zero points: in each block, the value of largest magnitude becomes -8. */
export function quantizeBlocks4(weights: Float32Array, numRows: number, rowLength: number): BlockWeights {
  const blocksPerRow = Math.ceil(rowLength / BLOCK_SIZE);
  // A row that ends within a block is padded with zeros.
  const values = new Uint8Array((numRows * blocksPerRow * BLOCK_SIZE) / 2).fill(0x88);
  const scales = new Float32Array(numRows * blocksPerRow);
  for (let block = 0; block < scales.length; block++) {
    const start = Math.floor(block / blocksPerRow) * rowLength + (block % blocksPerRow) * BLOCK_SIZE;
    const length = Math.min(BLOCK_SIZE, rowLength - (block % blocksPerRow) * BLOCK_SIZE);
    const scale = Math.fround(extreme(weights, start, length) / -8);
    scales[block] = scale;
    if (scale === 0) continue;
    const inverse = Math.fround(1 / scale);
    for (let i = 0; i < length; i++) {
      const scaled = Math.fround(weights[start + i]! * inverse); // in float32, as there
      const level = Math.floor(Math.fround(scaled + 8) + 0.5);
      const at = (block * BLOCK_SIZE + i) >> 1;
      const shift = (i & 1) * 4;
      const other = values[at]! & (0xf0 >> shift);
      values[at] = other | (Math.min(15, Math.max(0, level)) << shift);
    }
  }
  return { values, scales };
}

/** Finds the value of largest magnitude, with its sign; of two, the negative one. */
function extreme(values: Float32Array, start: number, length: number): number {
  let [smallest, largest] = [0, 0];
  for (let i = start; i < start + length; i++) {
    smallest = Math.min(smallest, values[i]!);
    largest = Math.max(largest, values[i]!);
  }
  return largest > -smallest ? largest : smallest;
}

function roundToEven(value: number): number {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}
