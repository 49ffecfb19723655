import { operators, type Value } from "@readme-moe/onnx";
import type { Tape, Tensor } from "./tape.ts";

const { FusedMatMul, Gemm, ReduceSum } = operators;

/** Computes `x · wᵀ + bias`; `x` is `[rows, in]`, `w` is `[out, in]` as in checkpoints, `bias` is `[out]`. */
export function linear(tape: Tape, x: Tensor, w: Tensor, bias?: Tensor): Tensor {
  const g = tape.graph;
  return tape.record(
    Gemm(g, x.value, w.value, { bias: bias?.value }),
    [sizeOf(x, 0), sizeOf(w, 0)],
    [
      [x, (gradient) => Gemm(g, gradient, w.value, { transB: false })],
      [w, (gradient) => Gemm(g, gradient, x.value, { transA: true, transB: false })],
      ...(bias ? [[bias, (gradient: Value) => ReduceSum(g, gradient, 0)] as const] : []),
    ],
  );
}

/** Weight `[out, in]` with a change of low rank, `right · left`. */
export interface LowRankWeight {
  readonly weight: Tensor;
  /** `[rank, in]` */
  readonly left: Tensor;
  /** `[out, rank]` */
  readonly right: Tensor;
  readonly bias?: Tensor | undefined;
}

/** Computes `x · (weight + right · left)ᵀ + bias` without forming the sum. */
export function linearWithLowRank(tape: Tape, x: Tensor, { weight, bias, left, right }: LowRankWeight): Tensor {
  const g = tape.graph;
  const base = linear(tape, x, weight, bias);
  const inner = linear(tape, x, left);
  return tape.record(Gemm(g, inner.value, right.value, { bias: base.value }), base.shape, [
    [base, (gradient) => gradient],
    [inner, (gradient) => Gemm(g, gradient, right.value, { transB: false })],
    [right, (gradient) => Gemm(g, gradient, inner.value, { transA: true, transB: false })],
  ]);
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

/** Returns the size of an axis, counted from the end when negative. @throws {TypeError} when there is no such axis */
function sizeOf({ shape }: Tensor, axis: number): number {
  const size = shape.at(axis);
  if (size === undefined)
    throw new TypeError(`Expected a tensor with an axis ${axis}, got one of shape [${shape.join(", ")}]`);
  return size;
}
