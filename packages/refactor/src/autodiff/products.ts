import * as operators from "../graphs/operators.ts";
import type { Value } from "../graphs/graph-builder.ts";
import { steadyGemm, type ProductSize } from "../linear-algebra/steady-gemm.ts";
import { ANY_ROWS, type Tape, type Tensor } from "./tape.ts";

const { FusedMatMul, Gemm, Mul, ReduceSum } = operators;

/** Computes `x · wᵀ + bias`; `x` is `[rows, in]`, `w` is `[out, in]` as in checkpoints, `bias` is `[out]`. */
export function linear(tape: Tape, x: Tensor, w: Tensor, bias?: Tensor): Tensor {
  const g = tape.graph;
  const [rows, columns, inner] = [sizeOf(x, 0), sizeOf(w, 0), sizeOf(x, 1)];
  const [size, back] = [productSize(rows, columns, inner), productSize(rows, inner, columns)];
  return tape.record(
    steadyGemm(g, x.value, w.value, { size, bias: bias?.value }),
    [rows, columns],
    [
      [x, (gradient) => steadyGemm(g, gradient, w.value, { size: back, transB: false })],
      [w, (gradient) => Gemm(g, gradient, x.value, { transA: true, transB: false })],
      ...(bias ? [[bias, (gradient: Value) => ReduceSum(g, gradient, 0)] as const] : []),
    ],
  );
}

/** Weight `[out, in]` with a change of low rank, `factor · right · left`. */
export interface LoraWeight extends LoraFactor {
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
  return tape.record(steadyGemm(g, inner.value, right.value, { size, bias: base.value }), base.shape, [
    [base, (gradient) => gradient],
    [inner, (gradient) => steadyGemm(g, gradient, right.value, { size: back, transB: false })],
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

/** Computes `alpha · a · b`; `a` is `[…, m, k]`, `b` is `[…, k, n]` with the same leading axes. */
export function matmul(tape: Tape, a: Tensor, b: Tensor, alpha = 1): Tensor {
  const g = tape.graph;
  return tape.record(
    FusedMatMul(g, a.value, b.value, { alpha }),
    [...a.shape.slice(0, -1), sizeOf(b, -1)],
    [
      [a, (gradient) => FusedMatMul(g, gradient, b.value, { transB: true, alpha })],
      [b, (gradient) => FusedMatMul(g, a.value, gradient, { transA: true, alpha })],
    ],
  );
}

/** Computes `alpha · a · bᵀ`; `a` is `[…, m, k]`, `b` is `[…, n, k]` with the same leading axes. */
export function matmulTransposed(tape: Tape, a: Tensor, b: Tensor, alpha = 1): Tensor {
  const g = tape.graph;
  const value = FusedMatMul(g, a.value, b.value, { transB: true, alpha });
  return tape.record(
    value,
    [...a.shape.slice(0, -1), sizeOf(b, -2)],
    [
      [a, (gradient) => FusedMatMul(g, gradient, b.value, { alpha })],
      [b, (gradient) => FusedMatMul(g, gradient, a.value, { transA: true, alpha })],
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
