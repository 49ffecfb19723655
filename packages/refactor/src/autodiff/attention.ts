// Causal self-attention of whole sequences without a past, grouped heads included.

import { matmul, matmulTransposed } from "./products.ts";
import { causalSoftmax } from "./normalization.ts";
import { reshape, transpose } from "./shapes.ts";
import { ANY_ROWS, type Tape, type Tensor } from "./tape.ts";

/**
 * Queries `[sequences · tokens, numHeads · headSize]`, keys and values `[sequences · tokens, numKvHeads · headSize]`.
 */
export interface AttentionRows {
  readonly query: Tensor;
  readonly key: Tensor;
  readonly value: Tensor;
}

export interface AttentionSizes {
  /** Length of each sequence. */
  readonly tokens: number;
  readonly numHeads: number;
  /** Number of key heads, each of which serves `numHeads / numKvHeads` heads. */
  readonly numKvHeads: number;
  readonly headSize: number;
  /** Number of positions that a query sees, its own included. @default all */
  readonly window?: number | undefined;
  /** Factor of scores. @default 1 / √headSize */
  readonly scale?: number | undefined;
}

/**
 * Computes `softmax(query · keyᵀ · scale) · value` of each head. Queries and keys are already rotated. The result has
 * the shape of the queries.
 */
export function causalAttention(tape: Tape, { query, key, value }: AttentionRows, sizes: AttentionSizes): Tensor {
  const { tokens, numHeads, numKvHeads, headSize, window, scale = 1 / Math.sqrt(headSize) } = sizes;
  const [numRows = 0] = query.shape;
  const sequences = numRows === ANY_ROWS ? ANY_ROWS : numRows / tokens;
  const heads = (x: Tensor, count: number): Tensor =>
    transpose(tape, reshape(tape, x, [sequences, tokens, count, headSize]), [0, 2, 1, 3]);
  // Query heads with the same keys follow each other, as more rows of one product.
  const rows = (numHeads / numKvHeads) * tokens;
  const queries = reshape(tape, heads(query, numHeads), [sequences, numKvHeads, rows, headSize]);
  const scores = matmulTransposed(tape, queries, heads(key, numKvHeads), scale);
  const square = reshape(tape, scores, [sequences, numHeads, tokens, tokens]);
  const weights = reshape(tape, causalSoftmax(tape, square, window), scores.shape);
  const attended = matmul(tape, weights, heads(value, numKvHeads));
  const apart = reshape(tape, attended, [sequences, numHeads, tokens, headSize]);
  return reshape(tape, transpose(tape, apart, [0, 2, 1, 3]), [numRows, numHeads * headSize]);
}
