// Sums and products on a tape, with gradients.

import type { GraphBuilder, Value } from "../graphs/graph-builder.ts";
import * as operators from "../graphs/operators.ts";
import { deterministicGemm, type ProductSize } from "../linear-algebra/deterministic-gemm.ts";
import { countOf, type Tape, type Tensor, ANY_ROWS } from "./tape.ts";

const { Add, FrozenProduct, FusedMatMul, Gemm, Mul, QuickGelu, ReduceSum, Reshape, Sigmoid, Sub, Tanh, Transpose } =
  operators;

/** `a + b`, where `b` has the shape of `a` or of its last axes. */
export function add(tape: Tape, a: Tensor, b: Tensor): Tensor {
  const g = tape.graph;
  return tape.record(Add(g, a.value, b.value), a.shape, [
    [a, (gradient) => gradient],
    [b, (gradient) => sumToShape(g, gradient, a, b)],
  ]);
}

/** `x · factor` */
export function timesNumber(tape: Tape, x: Tensor, factor: number): Tensor {
  const g = tape.graph;
  const multiply = (value: Value): Value => Mul(g, value, g.floats([factor]));
  return tape.record(multiply(x.value), x.shape, [[x, multiply]]);
}

/** `x + offset`, element by element */
export function shift(tape: Tape, x: Tensor, offset: number): Tensor {
  const g = tape.graph;
  return tape.record(Add(g, x.value, g.floats([offset])), x.shape, [[x, (gradient) => gradient]]);
}

/** `x · sigmoid(x)` */
export function silu(tape: Tape, x: Tensor): Tensor {
  const g = tape.graph;
  const derivative = (): Value => {
    const gate = Sigmoid(g, x.value);
    const rest = Sub(g, g.floats([1]), gate);
    return Mul(g, gate, Add(g, g.floats([1]), Mul(g, x.value, rest)));
  };
  return tape.record(QuickGelu(g, x.value, 1), x.shape, [[x, (gradient) => Mul(g, gradient, derivative())]]);
}

/** `activated · up`, element by element. @param slope - of `activated` by `gate` */
function gated(tape: Tape, [gate, up]: readonly [Tensor, Tensor], activated: Value, slope: () => Value): Tensor {
  const g = tape.graph;
  return tape.record(Mul(g, activated, up.value), gate.shape, [
    [gate, (gradient) => Mul(g, Mul(g, gradient, up.value), slope())],
    [up, (gradient) => Mul(g, gradient, activated)],
  ]);
}

/** `silu(gate) · up`, element by element. */
export function swiglu(tape: Tape, gate: Tensor, up: Tensor): Tensor {
  const g = tape.graph;
  const sigmoid = Sigmoid(g, gate.value);
  const silued = Mul(g, gate.value, sigmoid);
  return gated(tape, [gate, up], silued, () => Add(g, sigmoid, Mul(g, silued, Sub(g, g.floats([1]), sigmoid))));
}

// GELU's approximation: tanh(√(2/π) · (x + 0.044715 · x³)).
const GELU_SCALE = Math.sqrt(2 / Math.PI);
const GELU_CUBIC = 0.044715;

/** `gelu(gate) · up`, element by element, with GELU's approximation by tanh. */
export function geglu(tape: Tape, gate: Tensor, up: Tensor): Tensor {
  const g = tape.graph;
  const [x, one, half] = [gate.value, g.floats([1]), g.floats([0.5])];
  const square = Mul(g, x, x);
  const inner = Mul(g, Mul(g, x, g.floats([GELU_SCALE])), Add(g, one, Mul(g, square, g.floats([GELU_CUBIC]))));
  const turned = Tanh(g, inner);
  const share = Mul(g, half, Add(g, one, turned)); // gelu(x) / x
  return gated(tape, [gate, up], Mul(g, x, share), () => {
    const innerSlope = Mul(g, g.floats([GELU_SCALE]), Add(g, one, Mul(g, square, g.floats([3 * GELU_CUBIC]))));
    const turnedSlope = Mul(g, Sub(g, one, Mul(g, turned, turned)), innerSlope);
    return Add(g, share, Mul(g, Mul(g, half, x), turnedSlope));
  });
}

/** Sums over the leading axes of `a` that `b` was repeated over. */
function sumToShape(g: GraphBuilder, gradient: Value, a: Tensor, b: Tensor): Value {
  if (a.shape.length === b.shape.length) return gradient;
  const rows = Reshape(g, gradient, [-1, countOf(b.shape)]);
  return Reshape(g, ReduceSum(g, rows, 0), b.shape);
}

/** Computes `x · wᵀ + bias`; `x` is `[rows, in]`, `w` is `[out, in]` as in checkpoints, `bias` is `[out]`. */
export function linear(tape: Tape, x: Tensor, w: Tensor, bias?: Tensor): Tensor {
  const g = tape.graph;
  const [rows, columns, inner] = [sizeOf(x, 0), sizeOf(w, 0), sizeOf(x, 1)];
  const { frozen } = w;
  if (frozen !== undefined) {
    const rule = (gradient: Value): Value => FrozenProduct(g, gradient, frozen, true);
    const product = tape.record(FrozenProduct(g, x.value, frozen), [rows, columns], [[x, rule]]);
    return bias ? add(tape, product, bias) : product;
  }
  const [size, back] = [productSize(rows, columns, inner), productSize(rows, inner, columns)];
  return tape.record(
    deterministicGemm(g, x.value, w.value, { size, bias: bias?.value }),
    [rows, columns],
    [
      [x, (gradient) => deterministicGemm(g, gradient, w.value, { size: back, transB: false })],
      [w, (gradient) => Gemm(g, gradient, x.value, { transA: true, transB: false })],
      ...(bias ? [[bias, (gradient: Value) => ReduceSum(g, gradient, 0)] as const] : []),
    ],
  );
}

/** Weight `[out, in]` with a change of low rank, `factor · right · left`. */
interface LoraWeight extends LoraFactor {
  readonly weight: Tensor;
  /** `[rank, in]` */
  readonly left: Tensor;
  /** `[out, rank]` */
  readonly right: Tensor;
  readonly bias?: Tensor | undefined;
}

/** Factor of changes of low rank. */
export interface LoraFactor {
  /** Factor of all changes. @default 1 */
  readonly scale?: number | undefined;
  /** Factor of each row and rank, `[rows, rank]`, which has no gradient. */
  readonly mask?: Tensor | undefined;
}

/** Computes `x · (weight + factor · right · left)ᵀ + bias` without forming the sum. */
export function linearWithLora(tape: Tape, x: Tensor, parts: LoraWeight): Tensor {
  const { weight, bias, left, right } = parts;
  const g = tape.graph;
  const base = linear(tape, x, weight, bias);
  const inner = scaled(tape, linear(tape, x, left), parts);
  const [rows, out, rank] = [sizeOf(x, 0), sizeOf(right, 0), sizeOf(right, 1)];
  const [size, back] = [productSize(rows, out, rank), productSize(rows, rank, out)];
  return tape.record(deterministicGemm(g, inner.value, right.value, { size, bias: base.value }), base.shape, [
    [base, (gradient) => gradient],
    [inner, (gradient) => deterministicGemm(g, gradient, right.value, { size: back, transB: false })],
    [right, (gradient) => Gemm(g, gradient, inner.value, { transA: true, transB: false })],
  ]);
}

function scaled(tape: Tape, x: Tensor, { scale = 1, mask }: LoraFactor): Tensor {
  const g = tape.graph;
  const apply = (value: Value): Value => {
    const result = mask ? Mul(g, value, mask.value) : value;
    return scale === 1 ? result : Mul(g, result, g.floats([scale]));
  };
  return mask || scale !== 1 ? tape.record(apply(x.value), x.shape, [[x, apply]]) : x;
}

/** Computes `alpha · a · b`, or with `transB` `alpha · a · bᵀ`, of matrices with the same leading axes. */
export function matmul(tape: Tape, a: Tensor, b: Tensor, { alpha = 1, transB = false } = {}): Tensor {
  const g = tape.graph;
  const columns = sizeOf(b, transB ? -2 : -1);
  const slopeOfB = (gradient: Value): Value => {
    const [left, right] = transB ? [gradient, a.value] : [a.value, gradient];
    return FusedMatMul(g, left, right, { transA: true, alpha });
  };
  return tape.record(
    FusedMatMul(g, a.value, b.value, { transB, alpha }),
    [...a.shape.slice(0, -1), columns],
    [
      [a, (gradient) => FusedMatMul(g, gradient, b.value, { transB: !transB, alpha })],
      [b, slopeOfB],
    ],
  );
}

function productSize(rows: number, columns: number, inner: number): ProductSize | undefined {
  return rows === ANY_ROWS ? undefined : { rows, columns, inner };
}

/** Returns the size of an axis, counted from the end when negative. @throws {TypeError} when there is no such axis */
function sizeOf({ shape }: Tensor, axis: number): number {
  const size = shape.at(axis);
  if (size === undefined)
    throw new TypeError(`Expected a tensor with an axis ${axis}, got one of shape [${shape.join(", ")}]`);
  return size;
}

/** Returns the same elements in another shape of the same size. */
export function reshape(tape: Tape, x: Tensor, shape: readonly number[]): Tensor {
  const g = tape.graph;
  return tape.record(Reshape(g, x.value, shape), shape, [[x, (gradient) => Reshape(g, gradient, x.shape)]]);
}

/** Permutes axes: axis `i` of the result is axis `perm[i]` of `x`. */
export function transpose(tape: Tape, x: Tensor, perm: readonly number[]): Tensor {
  const g = tape.graph;
  const inverse = perm.map((_, axis) => perm.indexOf(axis));
  const shape = perm.flatMap((axis) => x.shape[axis] ?? []);
  return tape.record(Transpose(g, x.value, perm), shape, [[x, (gradient) => Transpose(g, gradient, inverse)]]);
}
