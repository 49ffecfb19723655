// The ONNX operators that our graphs use, one function each, named as in the ONNX specification (operator set 18) and
// as in onnxruntime's contrib operators. Types prevent misspelt operators and attributes; the runtime checks shapes
// when it opens a session. Exported graphs use operators of the specification, and `MatMul4Bits`.

import type { GraphBuilder, Value } from "./graph-builder.ts";

const MICROSOFT = "com.microsoft";

type Unary = (g: GraphBuilder, x: Value) => Value;
type Binary = (g: GraphBuilder, a: Value, b: Value) => Value;

function unary(type: string): Unary {
  return (g, x) => g.node(type, [x]);
}

function binary(type: string): Binary {
  return (g, a, b) => g.node(type, [a, b]);
}

export const Abs: Unary = unary("Abs");
export const Cos: Unary = unary("Cos");
export const Log: Unary = unary("Log");
export const Neg: Unary = unary("Neg");
export const Reciprocal: Unary = unary("Reciprocal");
export const Sigmoid: Unary = unary("Sigmoid");
export const Sin: Unary = unary("Sin");
export const Sqrt: Unary = unary("Sqrt");
export const Tanh: Unary = unary("Tanh");

export const Add: Binary = binary("Add");
export const And: Binary = binary("And");
export const Div: Binary = binary("Div");
export const Less: Binary = binary("Less");
export const LessOrEqual: Binary = binary("LessOrEqual");
/** `a · b`, batched over the leading axes. */
export const MatMul: Binary = binary("MatMul");
export const Mul: Binary = binary("Mul");
export const Pow: Binary = binary("Pow");
export const Sub: Binary = binary("Sub");

export function Where(g: GraphBuilder, condition: Value, a: Value, b: Value): Value {
  return g.node("Where", [condition, a, b]);
}

const CAST_TYPES = { float32: 1, bool: 9 } as const;

export function CastTo(g: GraphBuilder, x: Value, to: keyof typeof CAST_TYPES): Value {
  return g.node("Cast", [x], { to: CAST_TYPES[to] });
}

// --- Shapes ---

export function Concat(g: GraphBuilder, values: readonly Value[], axis: number): Value {
  const [only] = values;
  return values.length === 1 && only ? only : g.node("Concat", values, { axis });
}

/** Rows of `x` (`axis` 0) by int64 indices of any shape. */
export function Gather(g: GraphBuilder, x: Value, indices: Value): Value {
  return g.node("Gather", [x, indices], { axis: 0 });
}

/** Elements of `x` `[rows, columns]` by int64 columns `[rows, …]`. */
export function GatherColumns(g: GraphBuilder, x: Value, columns: Value): Value {
  return g.node("GatherElements", [x, columns], { axis: 1 });
}

/** `x` `[rows, columns]` with other elements at int64 column `[rows, 1]` of each row. */
export function ScatterColumns(g: GraphBuilder, x: Value, columns: Value, elements: Value): Value {
  return g.node("ScatterElements", [x, columns, elements], { axis: 1 });
}

/** `x` `[rows, columns]` plus elements at int64 columns `[rows, …]` of each row. */
export function AddToColumns(g: GraphBuilder, x: Value, columns: Value, elements: Value): Value {
  return g.node("ScatterElements", [x, columns, elements], { axis: 1, reduction: "add" });
}

/** `shape` may hold one -1 (the rest) and zeros (the input's size at the same place). */
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

/** Elements `[start, end)` of an axis. */
export function Slice(
  g: GraphBuilder,
  x: Value,
  { start, end, axis = 0 }: { readonly start: number; readonly end: number; readonly axis?: number },
): Value {
  return g.node("Slice", [x, g.integers([start]), g.integers([end]), g.integers([axis])]);
}

/** int64 `[0, 1, …, limit)`; `limit` is a scalar. */
export function Range(g: GraphBuilder, limit: Value): Value {
  return g.node("Range", [g.integer(0), limit, g.integer(1)]);
}

// --- Reductions. Axes must be positive: with a negative one, no rows are reduced when there are none ---

/** The sums over `axis`. */
export function ReduceSum(g: GraphBuilder, x: Value, axis: number): Value {
  return g.node("ReduceSum", [x, g.integers([axis])], { keepdims: 0 });
}

/** The means over `axis`, which is kept with size 1. */
export function ReduceMean(g: GraphBuilder, x: Value, axis: number): Value {
  return g.node("ReduceMean", [x, g.integers([axis])], { keepdims: 1 });
}

/** The largest of `axis`, which is kept with size 1. */
export function ReduceMax(g: GraphBuilder, x: Value, axis: number): Value {
  return g.node("ReduceMax", [x, g.integers([axis])], { keepdims: 1 });
}

/** `log(sum(exp(x)))` over `axis`. */
export function ReduceLogSumExp(g: GraphBuilder, x: Value, axis: number): Value {
  return g.node("ReduceLogSumExp", [x, g.integers([axis])], { keepdims: 0 });
}

export function Softmax(g: GraphBuilder, x: Value, axis: number): Value {
  return g.node("Softmax", [x], { axis });
}

/** The `k` largest of the last axis, largest first; `k` int64 `[1]`. */
export function TopK(g: GraphBuilder, x: Value, k: Value): readonly [values: Value, indices: Value] {
  return g.nodes("TopK", [x, k], [0, 1], { axis: -1, largest: 1, sorted: 1 });
}

// --- Products ---

interface ProductOptions {
  readonly transA?: boolean;
  readonly transB?: boolean;
  /** Factor of the product. */
  readonly alpha?: number;
}

/** `x · wᵀ + bias`, `x` `[rows, in]`, `w` `[out, in]` as in checkpoints, `bias` `[out]` or `[rows, out]`. */
export function Gemm(
  g: GraphBuilder,
  x: Value,
  w: Value,
  options: ProductOptions & { readonly bias?: Value | undefined } = {},
): Value {
  const { bias, transA = false, transB = true, alpha = 1 } = options;
  const attributes = { transA: transA ? 1 : 0, transB: transB ? 1 : 0, alpha: { float: alpha } };
  return g.node("Gemm", bias ? [x, w, bias] : [x, w], attributes);
}

/** `alpha · a · b`, each factor optionally transposed in its last two axes; batched over the leading axes. */
export function FusedMatMul(
  g: GraphBuilder,
  a: Value,
  b: Value,
  { transA = false, transB = false, alpha = 1 }: ProductOptions = {},
): Value {
  const attributes = { ...(transA ? { transA: 1 } : {}), transB: transB ? 1 : 0, alpha: { float: alpha } };
  return g.node("FusedMatMul", [a, b], attributes, MICROSOFT);
}

/** A tensor in 8 bits: `scale · (values - zeroPoint)`; scale and zero point are scalars. */
export interface QuantizedTensor {
  readonly values: Value;
  readonly scale: Value;
  readonly zeroPoint: Value;
}

/** uint8 with one scale for the whole of `x`, from its smallest and largest value. */
export function DynamicQuantizeLinear(g: GraphBuilder, x: Value): QuantizedTensor {
  const [values, scale, zeroPoint] = g.nodes("DynamicQuantizeLinear", [x], [0, 1, 2]);
  return { values, scale, zeroPoint };
}

export function DequantizeLinear(g: GraphBuilder, x: QuantizedTensor): Value {
  return g.node("DequantizeLinear", [x.values, x.scale, x.zeroPoint]);
}

/** `(a - aZeroPoint) · (b - bZeroPoint)`, int32; still to be scaled. */
export function MatMulInteger(g: GraphBuilder, a: QuantizedTensor, b: QuantizedTensor): Value {
  return g.node("MatMulInteger", [a.values, b.values, a.zeroPoint, b.zeroPoint]);
}

/** Domain of products that the kernel computes between the stages of a graph. */
export const FROZEN_DOMAIN = "readme-moe";

/** `x · weightᵀ`, or with `isBackward` `x · weight`, of a weight that is no tensor of the graph. */
export function FrozenProduct(g: GraphBuilder, x: Value, weight: string, isBackward = false): Value {
  return g.node("FrozenProduct", [x], { weight, backward: isBackward ? 1 : 0 }, FROZEN_DOMAIN);
}

/** Weights in blocks of 4 bits: uint8 `[numOut, blocks, blockSize / 2]`, low half first; scales `[numOut · blocks]`. */
export interface BlockTensor {
  readonly values: Value;
  readonly scales: Value;
  readonly numIn: number;
  readonly numOut: number;
  readonly blockSize: number;
}

/** `x · weightᵀ` in float32; the quant 8 stands for zero. Operator of onnxruntime. */
export function MatMul4Bits(g: GraphBuilder, x: Value, weight: BlockTensor): Value {
  const attributes = { K: weight.numIn, N: weight.numOut, bits: 4, block_size: weight.blockSize };
  return g.node("MatMulNBits", [x, weight.values, weight.scales], attributes, MICROSOFT);
}

// --- Parts of layers, as contrib operators ---

/** RMS norm over the last axis: `x / rms(x) · scale`. */
export function SimplifiedLayerNormalization(g: GraphBuilder, x: Value, scale: Value, epsilon: number): Value {
  return g.node("SimplifiedLayerNormalization", [x, scale], { axis: -1, epsilon: { float: epsilon }, stash_type: 1 });
}

/**
 * Rotates pairs `(i, i + rotatedSize / 2)` of each head ("rotate half"). `x` `[batch, sequence, numHeads · headSize]`,
 * positions int64 `[batch, sequence]`, or `[1]` for the first one of all rows; tables
 * `[maxPositions, rotatedSize / 2]`.
 *
 * @param partial - when a part of each head is rotated; the rest passes unchanged
 */
export function RotaryEmbedding(
  g: GraphBuilder,
  x: Value,
  { positions, cos, sin }: { readonly positions: Value; readonly cos: Value; readonly sin: Value },
  partial?: { readonly rotatedSize: number; readonly numHeads: number },
): Value {
  const part = partial ? { rotary_embedding_dim: partial.rotatedSize, num_heads: partial.numHeads } : {};
  return g.node("RotaryEmbedding", [x, positions, cos, sin], { interleaved: 0, ...part }, MICROSOFT);
}

/** `x · sigmoid(alpha · x)`; alpha 1 is SiLU. */
export function QuickGelu(g: GraphBuilder, x: Value, alpha: number): Value {
  return g.node("QuickGelu", [x], { alpha: { float: alpha } }, MICROSOFT);
}
