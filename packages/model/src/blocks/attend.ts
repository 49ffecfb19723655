// Attention of one group's sequences over their past and their new tokens. In decoding, each head of a sequence is a product of
// its own; in prefill the heads that share keys are rows of one.

import type { GraphBuilder, Value } from "../onnx/graph-builder.ts";
import {
  Add,
  Concat,
  FusedMatMul,
  Mul,
  ReduceSum,
  Reshape,
  Softmax,
  Split,
  Transpose,
  Unsqueeze,
} from "../onnx/operators.ts";
import type { AttentionGroup } from "./attention-group.ts";

/**
 * Sizes of one attention layer. Query heads are a multiple of key and value heads; sizes in floats, the window in
 * tokens.
 */
export interface AttentionShape {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headSize: number;
  /** Scores are multiplied by this before the softmax; `1 / sqrt(headSize)` in Llama. */
  readonly scale: number;
  readonly slidingWindow: number | undefined;
  /** Of the norm of queries and keys, where there is one. */
  readonly normEpsilon: number;
}

/**
 * Queries, new keys and new values of one group's sequences: `[sequences, heads · headSize]` when decoding, else
 * `[sequences, queries, heads · headSize]`.
 */
export interface AttentionRows {
  readonly queries: Value;
  readonly newKeys: Value;
  readonly newValues: Value;
}

/**
 * `softmax(scale · q · [past keys, new keys]ᵀ + mask) · [past values, new values]`, `[rows, numHeads · headSize]`.
 *
 * A group that does not only decode must have at least one sequence: the runtime cannot fold axes of nothing.
 */
export function attend(
  g: GraphBuilder,
  layer: number,
  group: AttentionGroup,
  rows: AttentionRows,
  shape: AttentionShape,
): Value {
  return group.isDecode ? decode(g, layer, group, rows, shape) : prefill(g, layer, group, rows, shape);
}

/**
 * One query a head. Products of one row read keys and values where they are; those of all heads that share them would copy
 * them first, which takes twice as long. Only products without a factor do, so the queries are scaled.
 */
function decode(
  g: GraphBuilder,
  layer: number,
  group: AttentionGroup,
  rows: AttentionRows,
  { numHeads, numKvHeads, headSize, scale, slidingWindow }: AttentionShape,
): Value {
  const { past } = group;
  if (!past) throw new TypeError("Expected a group that decodes to have a past");
  const perKvHead = numHeads / numKvHeads;
  const queries = Reshape(g, Mul(g, rows.queries, g.float(scale)), [0, numKvHeads, perKvHead, 1, headSize]);
  const [newKey, newValue] = [rows.newKeys, rows.newValues].map((x) =>
    Reshape(g, x, [0, numKvHeads, 1, 1, headSize]),
  ) as [Value, Value];
  // There is one new key and one new value: products of single numbers, for which a matrix product each would take as long as
  // for the past.
  const newScores = Unsqueeze(g, ReduceSum(g, Mul(g, queries, newKey), 4), [4]);
  const pastScores = FusedMatMul(g, queries, past.keys(layer), { transB: true });
  const weights = Softmax(g, Add(g, Concat(g, [pastScores, newScores], 4), group.mask(slidingWindow)), -1);
  const [ofPast, ofNew] = Split(g, weights, { sizes: past.keySizes, count: 2 }, 4) as [Value, Value];
  const attended = Add(g, FusedMatMul(g, ofPast, past.values(layer)), Mul(g, ofNew, newValue));
  return Reshape(g, attended, [-1, numHeads * headSize]);
}

/**
 * Many queries a head. The heads that share keys are rows of one product, `[.., 1, perKvHead · queries, ..]`; masks are per query,
 * so they meet scores as `[.., perKvHead, queries, ..]`. A product of one row or one key must not differ from those of many, so the
 * product has the factor.
 */
function prefill(
  g: GraphBuilder,
  layer: number,
  group: AttentionGroup,
  rows: AttentionRows,
  { numHeads, numKvHeads, headSize, scale, slidingWindow }: AttentionShape,
): Value {
  const { past } = group;
  const perKvHead = numHeads / numKvHeads;
  const asHeads = (x: Value): Value => Reshape(g, x, [0, 0, perKvHead, -1, 0]);
  const asRows = (x: Value): Value => Reshape(g, x, [0, 0, 1, -1, 0]);
  const byHead = Transpose(g, Reshape(g, rows.queries, [0, 0, numKvHeads, perKvHead, headSize]), [0, 2, 3, 1, 4]);
  // Scores are larger than keys and values, so these are what is put together.
  const afterPast = (pastOnes: Value | undefined, newOnes: Value): Value => {
    const heads = Transpose(g, Reshape(g, newOnes, [0, 0, numKvHeads, headSize]), [0, 2, 1, 3]);
    const own = Unsqueeze(g, heads, [2]);
    return pastOnes ? Concat(g, [pastOnes, own], 3) : own;
  };
  const keys = afterPast(past?.keys(layer), rows.newKeys);
  const values = afterPast(past?.values(layer), rows.newValues);
  const scores = FusedMatMul(g, asRows(byHead), keys, { transB: true, alpha: scale });
  const weights = asRows(Softmax(g, Add(g, asHeads(scores), group.mask(slidingWindow)), -1));
  const attended = asHeads(FusedMatMul(g, weights, values));
  return Reshape(g, Transpose(g, attended, [0, 3, 1, 2, 4]), [-1, numHeads * headSize]);
}
