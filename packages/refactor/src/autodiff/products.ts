import { operators, type Value } from "@readme-moe/onnx";
import type { Tape, Tensor } from "./tape.ts";

const { FusedMatMul, Gemm, Mul, ReduceSum } = operators;

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

/** Weight `[out, in]` with a change of low rank, `factor · right · left`. */
export interface LowRankWeight extends LowRankFactor {
  readonly weight: Tensor;
  /** `[rank, in]` */
  readonly left: Tensor;
  /** `[out, rank]` */
  readonly right: Tensor;
  readonly bias?: Tensor | undefined;
}

/** Factor of changes of low rank. */
export interface LowRankFactor {
  /** Factor of all changes. @default 1 */
  readonly scale?: number | undefined;
  /** Factor of each row and rank, `[rows, rank]`, which has no gradient. */
  readonly mask?: Tensor | undefined;
}

/** Computes `x · (weight + factor · right · left)ᵀ + bias` without forming the sum. */
export function linearWithLowRank(tape: Tape, x: Tensor, parts: LowRankWeight): Tensor {
  const { weight, bias, left, right } = parts;
  const g = tape.graph;
  const base = linear(tape, x, weight, bias);
  const inner = scaled(tape, linear(tape, x, left), parts);
  return tape.record(Gemm(g, inner.value, right.value, { bias: base.value }), base.shape, [
    [base, (gradient) => gradient],
    [inner, (gradient) => Gemm(g, gradient, right.value, { transB: false })],
    [right, (gradient) => Gemm(g, gradient, inner.value, { transA: true, transB: false })],
  ]);
}

function scaled(tape: Tape, x: Tensor, { scale = 1, mask }: LowRankFactor): Tensor {
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

/** Returns the size of an axis, counted from the end when negative. @throws {TypeError} when there is no such axis */
function sizeOf({ shape }: Tensor, axis: number): number {
  const size = shape.at(axis);
  if (size === undefined)
    throw new TypeError(`Expected a tensor with an axis ${axis}, got one of shape [${shape.join(", ")}]`);
  return size;
}
