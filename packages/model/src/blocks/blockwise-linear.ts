import type { GraphBuilder, Value } from "../onnx/graph-builder.ts";
import { MatMulNBits } from "../onnx/operators.ts";
import type { TensorRef } from "../weights/tensor-ref.ts";

// Larger blocks are faster, smaller ones finer; the kernel takes powers of two from 16 up.
const BLOCK_SIZES = [64, 32, 16] as const;
const LARGEST = 127;

/**
 * `x · weightᵀ` in 8 bits with one scale per block of 64 values, of the weights and of the activations, `x` float32
 * `[rows, in]`. Finer than one scale per row, and as fast for a few rows, but not for many: for the head, whose input
 * has channels so large that one scale per row would cost SmolLM2 0.013 nats.
 *
 * @returns `undefined` when the input's size is no multiple of a block
 */
export function blockwiseLinear(g: GraphBuilder, name: string, x: Value, ref: TensorRef): Value | undefined {
  const [numOut = 0, numIn = 0] = ref.shape;
  const blockSize = BLOCK_SIZES.find((size) => numIn % size === 0);
  if (blockSize === undefined) return undefined;
  const numBlocks = numIn / blockSize;
  // The weights are read once; their scales wait for their turn.
  let quantized: Promise<BlockwiseWeights> | undefined;
  const quantize = (): Promise<BlockwiseWeights> =>
    (quantized ??= ref.store.readFloats(ref.name).then((weights) => quantizeBlocks(weights, blockSize)));
  const weight = g.weight(`${name}.weight`, "uint8", [numOut, numBlocks, blockSize], async () => {
    return (await quantize()).values;
  });
  const scale = g.weight(`${name}.scale`, "float32", [numOut * numBlocks], async () => {
    const { scales } = await quantize();
    quantized = undefined;
    return new Uint8Array(scales.buffer);
  });
  return MatMulNBits(g, x, weight, scale, { numIn, numOut, bits: 8, blockSize });
}

interface BlockwiseWeights {
  /** `value / scale + 128` */
  readonly values: Uint8Array;
  readonly scales: Float32Array<ArrayBuffer>;
}

function quantizeBlocks(weights: Float32Array, blockSize: number): BlockwiseWeights {
  const values = new Uint8Array(weights.length).fill(128);
  const scales = new Float32Array(weights.length / blockSize);
  for (let block = 0; block < scales.length; block++) {
    const [start, end] = [block * blockSize, (block + 1) * blockSize];
    let largest = 0;
    for (let i = start; i < end; i++) largest = Math.max(largest, Math.abs(weights[i] as number));
    const scale = largest / LARGEST;
    scales[block] = scale;
    if (scale === 0) continue;
    for (let i = start; i < end; i++) values[i] = Math.round((weights[i] as number) / scale) + 128;
  }
  return { values, scales };
}
