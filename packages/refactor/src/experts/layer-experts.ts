// A layer's feed-forward network: dense, and split into experts.

import { submatrix, type Matrix } from "../linear-algebra/matrix.ts";

/** Dense down-projection of a layer. */
export interface DenseDown {
  /** `[hiddenSize, intermediateSize]` */
  readonly weight: Matrix;
  readonly bias: Float32Array | undefined;
}

/** Some neurons of a layer's FFN with their own down-projection. */
export interface Part {
  /** Rows of the dense FFN, ascending. */
  readonly neurons: Int32Array;
  /** `[hiddenSize, neurons]` */
  readonly down: Float32Array;
  /** `[hiddenSize]` */
  readonly bias: Float32Array;
}

/** Parts that replace a layer's dense FFN. */
export interface LayerExperts {
  /** Part that every token uses; `undefined` when the experts share no neurons. */
  readonly shared: Part | undefined;
  readonly experts: readonly Part[];
}

/** Copies the dense weights of `neurons` without fitting them, as the paper does. */
export function densePart(neurons: Int32Array, { weight, bias }: DenseDown): Part {
  const everyRow = Int32Array.from({ length: weight.rows }, (_, row) => row);
  const down = Float32Array.from(submatrix(weight, everyRow, neurons).data);
  return { neurons, down, bias: bias ?? new Float32Array(weight.rows) };
}
