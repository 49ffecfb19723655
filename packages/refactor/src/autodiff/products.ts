import { operators, type Value } from "@readme-moe/model";
import type { Tape, Tensor } from "./tape.ts";

const { FusedMatMul, Gemm, ReduceSum } = operators;

/** `x · wᵀ + bias`; `x` `[rows, in]`, `w` `[out, in]` as checkpoints have it, `bias` `[out]`. */
export function linear(tape: Tape, x: Tensor, w: Tensor, bias?: Tensor): Tensor {
  const g = tape.graph;
  const shape = [x.shape[0] as number, w.shape[0] as number];
  return tape.record(Gemm(g, x.value, w.value, bias?.value), shape, [
    [x, (gradient) => Gemm(g, gradient, w.value, undefined, { transB: false })],
    [w, (gradient) => Gemm(g, gradient, x.value, undefined, { transA: true, transB: false })],
    ...(bias ? [[bias, (gradient: Value) => ReduceSum(g, gradient, 0)] as const] : []),
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
