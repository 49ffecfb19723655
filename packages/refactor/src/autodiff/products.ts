import { operators, type Value } from "@readme-moe/onnx";
import type { Tape, Tensor } from "./tape.ts";

const { FusedMatMul, Gemm, ReduceSum } = operators;

/** `x · wᵀ + bias`; `x` `[rows, in]`, `w` `[out, in]` as checkpoints have it, `bias` `[out]`. */
export function linear(tape: Tape, x: Tensor, w: Tensor, bias?: Tensor): Tensor {
  const g = tape.graph;
  const shape = [x.shape[0] as number, w.shape[0] as number];
  return tape.record(Gemm(g, x.value, w.value, { bias: bias?.value }), shape, [
    [x, (gradient) => Gemm(g, gradient, w.value, { transB: false })],
    [w, (gradient) => Gemm(g, gradient, x.value, { transA: true, transB: false })],
    ...(bias ? [[bias, (gradient: Value) => ReduceSum(g, gradient, 0)] as const] : []),
  ]);
}

/** Weights of a product with a change of low rank: `weight` and `bias` as in `linear`, `left` `[rank, in]`, `right` `[out, rank]`. */
export interface LowRankWeights {
  readonly weight: Tensor;
  readonly left: Tensor;
  readonly right: Tensor;
  readonly bias?: Tensor | undefined;
}

/** `x · (weight + right · left)ᵀ + bias`, without computing the sum of the matrices. */
export function linearWithLowRank(tape: Tape, x: Tensor, { weight, left, right, bias }: LowRankWeights): Tensor {
  const g = tape.graph;
  const base = linear(tape, x, weight, bias);
  const inner = linear(tape, x, left);
  return tape.record(Gemm(g, inner.value, right.value, { bias: base.value }), base.shape, [
    [base, (gradient) => gradient],
    [inner, (gradient) => Gemm(g, gradient, right.value, { transB: false })],
    [right, (gradient) => Gemm(g, gradient, inner.value, { transA: true, transB: false })],
  ]);
}

/** `alpha · a · b`, `a` `[…, m, k]`, `b` `[…, k, n]` with the same leading axes. */
export function matmul(tape: Tape, a: Tensor, b: Tensor, alpha = 1): Tensor {
  const g = tape.graph;
  const shape = [...a.shape.slice(0, -1), b.shape.at(-1) as number];
  return tape.record(FusedMatMul(g, a.value, b.value, { alpha }), shape, [
    [a, (gradient) => FusedMatMul(g, gradient, b.value, { transB: true, alpha })],
    [b, (gradient) => FusedMatMul(g, a.value, gradient, { transA: true, alpha })],
  ]);
}

/** `alpha · a · bᵀ`, `a` `[…, m, k]`, `b` `[…, n, k]` with the same leading axes. */
export function matmulTransposed(tape: Tape, a: Tensor, b: Tensor, alpha = 1): Tensor {
  const g = tape.graph;
  const shape = [...a.shape.slice(0, -1), b.shape.at(-2) as number];
  return tape.record(FusedMatMul(g, a.value, b.value, { transB: true, alpha }), shape, [
    [a, (gradient) => FusedMatMul(g, gradient, b.value, { alpha })],
    [b, (gradient) => FusedMatMul(g, gradient, a.value, { transA: true, alpha })],
  ]);
}
