import type { InputStatistics } from "./input-statistics.ts";
import type { TensorRef } from "../weights/tensor-ref.ts";
import type { BlockSource } from "./block-source.ts";
import { fitFourBits } from "./fit-four-bits.ts";

const BLOCK_SIZES = [32, 16] as const;

/** 4 bits, fitted to what `product` takes in; `undefined` when rows are no whole number of blocks. */
export function fittedBlocks(ref: TensorRef, calibration: InputStatistics, product: string): BlockSource | undefined {
  const [numOut = 0, numIn = 0] = ref.shape;
  const blockSize = BLOCK_SIZES.find((size) => numIn % size === 0);
  if (blockSize === undefined) return undefined;
  return {
    numOut,
    numIn,
    format: { bits: 4, blockSize, hasOffsets: true },
    read: async () => {
      const squares = await calibration.inputSquares(product);
      return fitFourBits(await ref.store.readFloats(ref.name), withFloor(squares), blockSize);
    },
  };
}

/** Channels that the text did not use, and all those of an expert that it did not use, count a little. */
function withFloor(squares: Float32Array): Float32Array {
  const mean = squares.reduce((sum, square) => sum + square, 0) / squares.length;
  return mean > 0 ? squares.map((square) => square + 0.01 * mean) : squares.fill(1);
}
