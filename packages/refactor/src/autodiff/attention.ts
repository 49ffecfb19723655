// Causal self-attention of whole sequences without a past, grouped heads included.

import { matmul, matmulTransposed } from "./products.ts";
import { causalSoftmax } from "./normalization.ts";
import { reshape, transpose } from "./shapes.ts";
import type { Tape, Tensor } from "./tape.ts";

export interface AttentionSizes {
  readonly sequences: number;
  /** Of each sequence. */
  readonly tokens: number;
  readonly numHeads: number;
  /** Each serves `numHeads / numKvHeads` heads. */
  readonly numKvHeads: number;
  readonly headSize: number;
  /** Of positions that a query sees, its own included. @default all */
  readonly window?: number | undefined;
}

/**
 * `softmax(query · keyᵀ / √headSize) · value` of each head. `query` `[sequences · tokens, numHeads · headSize]`, `key` and `value`
 * `[sequences · tokens, numKvHeads · headSize]`, positions turned in already; the result is shaped like `query`.
 */
export function causalAttention(tape: Tape, query: Tensor, key: Tensor, value: Tensor, sizes: AttentionSizes): Tensor {
  const { sequences, tokens, numHeads, numKvHeads, headSize, window } = sizes;
  const heads = (x: Tensor, count: number): Tensor =>
    transpose(tape, reshape(tape, x, [sequences, tokens, count, headSize]), [0, 2, 1, 3]);
  // Heads that share keys lie behind each other: to their keys they are so many more rows.
  const rows = (numHeads / numKvHeads) * tokens;
  const queries = reshape(tape, heads(query, numHeads), [sequences, numKvHeads, rows, headSize]);
  const scores = matmulTransposed(tape, queries, heads(key, numKvHeads), 1 / Math.sqrt(headSize));
  const square = reshape(tape, scores, [sequences, numHeads, tokens, tokens]);
  const weights = reshape(tape, causalSoftmax(tape, square, window), scores.shape);
  const attended = matmul(tape, weights, heads(value, numKvHeads));
  const apart = reshape(tape, attended, [sequences, numHeads, tokens, headSize]);
  return reshape(tape, transpose(tape, apart, [0, 2, 1, 3]), [sequences * tokens, numHeads * headSize]);
}
