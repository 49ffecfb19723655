// The ONNX operators that our graphs use, one function each, named as in the ONNX specification and in
// onnxruntime's contrib operators (domain com.microsoft). Types stop a graph from being built with a
// misspelt operator or attribute; shapes are checked by the runtime when a session is created.

import type { GraphBuilder, Value } from "./graph-builder.ts";

const MICROSOFT = "com.microsoft";

export function Add(g: GraphBuilder, a: Value, b: Value): Value {
  return g.node("Add", [a, b]);
}

export function Sub(g: GraphBuilder, a: Value, b: Value): Value {
  return g.node("Sub", [a, b]);
}

export function Mul(g: GraphBuilder, a: Value, b: Value): Value {
  return g.node("Mul", [a, b]);
}

export function Less(g: GraphBuilder, a: Value, b: Value): Value {
  return g.node("Less", [a, b]);
}

export function And(g: GraphBuilder, a: Value, b: Value): Value {
  return g.node("And", [a, b]);
}

export function Where(g: GraphBuilder, condition: Value, a: Value, b: Value): Value {
  return g.node("Where", [condition, a, b]);
}

export function Concat(g: GraphBuilder, values: readonly Value[], axis: number): Value {
  const [only] = values;
  return values.length === 1 && only ? only : g.node("Concat", values, { axis });
}

export function Expand(g: GraphBuilder, x: Value, shape: Value): Value {
  return g.node("Expand", [x, shape]);
}

/** Rows of `x` (`axis` 0) by int64 indices of any shape. */
export function Gather(g: GraphBuilder, x: Value, indices: Value): Value {
  return g.node("Gather", [x, indices], { axis: 0 });
}

export function GatherElements(g: GraphBuilder, x: Value, indices: Value, axis: number): Value {
  return g.node("GatherElements", [x, indices], { axis });
}

/** `shape` may hold one -1 (the rest) and zeros (copy the input's size). */
export function Reshape(g: GraphBuilder, x: Value, shape: readonly number[]): Value {
  return g.node("Reshape", [x, g.integers(shape)]);
}

export function Transpose(g: GraphBuilder, x: Value, perm: readonly number[]): Value {
  return g.node("Transpose", [x], { perm });
}

export function Unsqueeze(g: GraphBuilder, x: Value, axes: readonly number[]): Value {
  return g.node("Unsqueeze", [x, g.integers(axes)]);
}

export function Squeeze(g: GraphBuilder, x: Value, axes: readonly number[]): Value {
  return g.node("Squeeze", [x, g.integers(axes)]);
}

/** The sizes of `x` from axis `start` up to, not including, `end`. */
export function Shape(g: GraphBuilder, x: Value, start: number, end: number): Value {
  return g.node("Shape", [x], { start, end });
}

/** Splits `x` along `axis` into pieces of the given sizes (an int64 value when they differ from run to run). */
export function Split(
  g: GraphBuilder,
  x: Value,
  sizes: readonly number[] | { readonly sizes: Value; readonly count: number },
  axis: number,
): readonly Value[] {
  const [values, count] = "count" in sizes ? [sizes.sizes, sizes.count] : [g.integers(sizes), sizes.length];
  return g.nodes("Split", [x, values], [...Array(count).keys()], { axis });
}

/** int64 `[0, 1, …, limit)`; `limit` is a scalar. */
export function Range(g: GraphBuilder, limit: Value): Value {
  return g.node("Range", [g.integer(0), limit, g.integer(1)]);
}

export function Softmax(g: GraphBuilder, x: Value, axis: number): Value {
  return g.node("Softmax", [x], { axis });
}

interface GemmOptions {
  readonly transA?: boolean;
  readonly transB?: boolean;
  /** Of the product alone. */
  readonly alpha?: number;
}

/** `x · wᵀ + bias`, `x` `[rows, in]`, `w` `[out, in]` as checkpoints have it, `bias` `[out]` or `[rows, out]`. */
export function Gemm(
  g: GraphBuilder,
  x: Value,
  w: Value,
  bias: Value | undefined,
  { transA = false, transB = true, alpha = 1 }: GemmOptions = {},
): Value {
  const attributes = { transA: transA ? 1 : 0, transB: transB ? 1 : 0, alpha: { float: alpha } };
  return g.node("Gemm", bias ? [x, w, bias] : [x, w], attributes);
}

/** The sums over `axis`, which must be positive: see `ReduceLogSumExp`. */
export function ReduceSum(g: GraphBuilder, x: Value, axis: number): Value {
  return g.node("ReduceSum", [x, g.integers([axis])], { keepdims: 0 });
}

export function Abs(g: GraphBuilder, x: Value): Value {
  return g.node("Abs", [x]);
}

export function Div(g: GraphBuilder, a: Value, b: Value): Value {
  return g.node("Div", [a, b]);
}

/** The means over `axis`, which must be positive: see `ReduceLogSumExp`. Keeps the axis, with size 1. */
export function ReduceMean(g: GraphBuilder, x: Value, axis: number): Value {
  return g.node("ReduceMean", [x, g.integers([axis])], { keepdims: 1 });
}

/** The largest of `axis`, which must be positive: see `ReduceLogSumExp`. Keeps the axis, with size 1. */
export function ReduceMax(g: GraphBuilder, x: Value, axis: number): Value {
  return g.node("ReduceMax", [x, g.integers([axis])], { keepdims: 1 });
}

/**
 * `aScale · bScale · (a - aZeroPoint) · (b - bZeroPoint)` with integer sums; `a` uint8 `[rows, in]`, `b` int8 or uint8 `[in, out]`,
 * `bScale` `[out]`.
 */
export function MatMulIntegerToFloat(
  g: GraphBuilder,
  a: Value,
  b: Value,
  scales: { readonly a: Value; readonly b: Value },
  zeroPoints: { readonly a: Value; readonly b?: Value | undefined },
): Value {
  const offsets = zeroPoints.b === undefined ? [zeroPoints.a] : [zeroPoints.a, zeroPoints.b];
  return g.node("MatMulIntegerToFloat", [a, b, scales.a, scales.b, ...offsets], {}, MICROSOFT);
}

/** `alpha · a · b`, either factor transposed in its last two axes if wanted; batched over the leading axes. */
export function FusedMatMul(
  g: GraphBuilder,
  a: Value,
  b: Value,
  { transA = false, transB = false, alpha = 1 }: GemmOptions = {},
): Value {
  const attributes = { ...(transA ? { transA: 1 } : {}), transB: transB ? 1 : 0, alpha: { float: alpha } };
  return g.node("FusedMatMul", [a, b], attributes, MICROSOFT);
}

/** RMS norm over the last axis: `x / rms(x) · scale`. */
export function SimplifiedLayerNormalization(g: GraphBuilder, x: Value, scale: Value, epsilon: number): Value {
  return g.node("SimplifiedLayerNormalization", [x, scale], { axis: -1, epsilon: { float: epsilon }, stash_type: 1 });
}

/**
 * Rotates pairs `(i, i + headSize / 2)` of each head ("rotate half").
 * `x` `[batch, sequence, numHeads · headSize]`, `positions` int64 `[batch, sequence]`, tables `[maxPositions, headSize / 2]`.
 */
export function RotaryEmbedding(g: GraphBuilder, x: Value, positions: Value, cos: Value, sin: Value): Value {
  return g.node("RotaryEmbedding", [x, positions, cos, sin], { interleaved: 0 }, MICROSOFT);
}

/** `x · sigmoid(alpha · x)`; alpha 1 is SiLU. */
export function QuickGelu(g: GraphBuilder, x: Value, alpha: number): Value {
  return g.node("QuickGelu", [x], { alpha: { float: alpha } }, MICROSOFT);
}

/** The `k` largest of the last axis, largest first; `k` int64 `[1]`. */
export function TopK(g: GraphBuilder, x: Value, k: Value): readonly [values: Value, indices: Value] {
  const outputs = g.nodes("TopK", [x, k], [0, 1], { axis: -1, largest: 1, sorted: 1 });
  return [outputs[0] as Value, outputs[1] as Value];
}

/** `log(sum(exp(x)))` over `axis`, which must be positive: with a negative one, no rows are reduced when there are none. */
export function ReduceLogSumExp(g: GraphBuilder, x: Value, axis: number): Value {
  return g.node("ReduceLogSumExp", [x, g.integers([axis])], { keepdims: 0 });
}

export function Log(g: GraphBuilder, x: Value): Value {
  return g.node("Log", [x]);
}

export function Sqrt(g: GraphBuilder, x: Value): Value {
  return g.node("Sqrt", [x]);
}

export function Reciprocal(g: GraphBuilder, x: Value): Value {
  return g.node("Reciprocal", [x]);
}

export function Sigmoid(g: GraphBuilder, x: Value): Value {
  return g.node("Sigmoid", [x]);
}

export function Neg(g: GraphBuilder, x: Value): Value {
  return g.node("Neg", [x]);
}

/** `data` with `updates` `[n, …]` added to its rows `indices` `[n, 1]`; a row that is named twice gets both. */
export function ScatterRowsAdd(g: GraphBuilder, data: Value, indices: Value, updates: Value): Value {
  return g.node("ScatterND", [data, indices, updates], { reduction: "add" });
}

/** Rows `[start, end)` of `x`. */
export function SliceRows(g: GraphBuilder, x: Value, start: number, end: number): Value {
  return g.node("Slice", [x, g.integers([start]), g.integers([end]), g.integers([0])]);
}
