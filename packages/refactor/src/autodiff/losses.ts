// Losses over rows of logits: cross-entropy with given targets, and distillation over a whole vocabulary.

import * as operators from "../graphs/operators.ts";
import type { GraphBuilder, Value } from "../graphs/graph-builder.ts";
import { deterministicGemm, type ProductSize } from "../linear-algebra/deterministic-gemm.ts";
import type { Tape, Tensor } from "./tape.ts";

const {
  Add,
  Concat,
  Gather,
  Log,
  Mul,
  ReduceLogSumExp,
  ReduceMax,
  ReduceSum,
  Reshape,
  Slice,
  Softmax,
  Sub,
  Unsqueeze,
} = operators;

/**
 * Sums `-Σ target · log softmax(logits)` over rows, `[1]`; both inputs are `[rows, classes]`. A row of targets that
 * sums to `w` counts as `w` rows: weights are part of the targets, and rows of zeros are left out.
 */
export function crossEntropy(tape: Tape, logits: Tensor, targets: Tensor): Tensor {
  const g = tape.graph;
  const weights = ReduceSum(g, targets.value, 1);
  const hit = ReduceSum(g, Mul(g, targets.value, logits.value), 1);
  const rows = Sub(g, Mul(g, weights, ReduceLogSumExp(g, logits.value, 1)), hit);
  const rule = (gradient: Value): Value => {
    const predicted = Mul(g, Softmax(g, logits.value, -1), Unsqueeze(g, weights, [1]));
    return Mul(g, gradient, Sub(g, predicted, targets.value));
  };
  return tape.record(Reshape(g, ReduceSum(g, rows, 0), [1]), [1], [[logits, rule]]);
}

/** Inputs of `distill`. Only the student's logits have a gradient. */
export interface DistillationInputs {
  /** Student's logits, `[rows, vocabulary]`. */
  readonly logits: Tensor;
  /** Teacher's logits, `[rows, vocabulary]`. */
  readonly teacher: Tensor;
  /** `[rows, 1]` */
  readonly weights: Tensor;
}

export interface Distillation {
  /** `Σ teacher · (log teacher - log student)` of each row, `[rows]`; has no gradient. */
  readonly divergences: Tensor;
  /** `[1]`, `Σ weight · (divergence + labelShare · log Σ exp(logits))` */
  readonly loss: Tensor;
  /** `[rows]`, `log Σ exp(logits)` */
  readonly logSums: Tensor;
}

/**
 * Computes the divergence of the student's next tokens from the teacher's, and the part of a cross-entropy that depends
 * on all logits. Both are one operation, so that there is one gradient `[rows, vocabulary]`. `pickedLogits` is the rest
 * of the cross-entropy.
 */
export function distill(
  tape: Tape,
  { logits, teacher, weights }: DistillationInputs,
  labelShare: number,
): Distillation {
  const g = tape.graph;
  const taught = Softmax(g, teacher.value, -1);
  const predicted = Softmax(g, logits.value, -1);
  const logSums = logSumsOf(g, logits.value, predicted);
  const gap = ReduceSum(g, Mul(g, taught, Sub(g, teacher.value, logits.value)), 1);
  const divergences = Add(g, gap, Sub(g, logSums, logSumsOf(g, teacher.value, taught)));
  const rows = Add(g, divergences, Mul(g, g.floats([labelShare]), logSums));
  const loss = Reshape(g, ReduceSum(g, Mul(g, rows, Reshape(g, weights.value, [-1])), 0), [1]);
  const rule = (gradient: Value): Value => {
    const scaled = Mul(g, g.floats([1 + labelShare]), predicted);
    return Mul(g, Sub(g, scaled, taught), Mul(g, gradient, weights.value));
  };
  const shape = logits.shape.slice(0, 1);
  return {
    divergences: { value: divergences, shape, needsGradient: false },
    logSums: { value: logSums, shape, needsGradient: false },
    loss: tape.record(loss, [1], [[logits, rule]]),
  };
}

/**
 * Computes `log Σ exp` from each row's largest logit and probability: the exponentials of a vocabulary are expensive.
 */
function logSumsOf(g: GraphBuilder, logits: Value, probabilities: Value): Value {
  const logSums = Sub(g, ReduceMax(g, logits, 1), Log(g, ReduceMax(g, probabilities, 1)));
  return Reshape(g, logSums, [-1]);
}

/**
 * Computes each row's logit of its own token, `[rows]`: the row times the token's row of `head` `[vocabulary, size]`,
 * which has no gradient.
 *
 * @param ids - int64 `[rows]`
 */
export function pickedLogits(tape: Tape, x: Tensor, head: Tensor, ids: Tensor): Tensor {
  const g = tape.graph;
  const own = Gather(g, head.value, ids.value);
  return tape.record(ReduceSum(g, Mul(g, x.value, own), 1), x.shape.slice(0, 1), [
    [x, (gradient) => Mul(g, own, Unsqueeze(g, gradient, [1]))],
  ]);
}

/** Sums `factor · weight · x` over rows, `[1]`; `x` is `[rows]`, `weights` is `[rows, 1]` and has no gradient. */
export function weightedSum(tape: Tape, x: Tensor, weights: Tensor, factor: number): Tensor {
  const g = tape.graph;
  const shares = Mul(g, Reshape(g, weights.value, [-1]), g.floats([factor]));
  const sum = Reshape(g, ReduceSum(g, Mul(g, x.value, shares), 0), [1]);
  return tape.record(sum, [1], [[x, (gradient) => Mul(g, shares, gradient)]]);
}

/** Inputs of `headLosses`. Only `x` has a gradient. */
export interface HeadInputs {
  /** `[rows, size]` */
  readonly x: Tensor;
  /** `[vocabulary, size]` */
  readonly head: Tensor;
  /** Token that follows each row, int64 `[rows]`. */
  readonly ids: Tensor;
}

/** Weights of rows in a loss, and a teacher with the same head. */
export interface HeadLoss {
  /** `[rows, 1]` */
  readonly weights: Tensor;
  /** Teacher's rows, `[rows, size]`. */
  readonly taught?: Tensor | undefined;
  /** Weight of the divergence from the teacher. */
  readonly teacherShare: number;
}

/**
 * Computes the cross-entropy of each row's next token, `[rows]`. `rowsTogether` rows have logits at a time, since a row
 * of logits is as long as the vocabulary.
 *
 * @returns also a function that appends `Σ weight · (cross-entropy + teacherShare · divergence)`, `[1]`
 */
export function headLosses(
  tape: Tape,
  { x, head, ids }: HeadInputs,
  rowsTogether: number,
): { readonly rows: Value; readonly loss: (options: HeadLoss) => Tensor } {
  const g = tape.graph;
  const [numRows = 0, inner = 0] = x.shape;
  const [columns = 0] = head.shape;
  const ranges = Array.from({ length: Math.ceil(numRows / rowsTogether) }, (_, place) => ({
    start: place * rowsTogether,
    end: Math.min(numRows, (place + 1) * rowsTogether),
  }));
  const join = (values: readonly Value[]): Value => Concat(g, values, 0);
  const pieces = ranges.map((range) => {
    const rows = Slice(g, x.value, range);
    const own = Gather(g, head.value, Slice(g, ids.value, range));
    const size = { rows: range.end - range.start, columns, inner };
    const logits = deterministicGemm(g, rows, head.value, { size });
    const predicted = Softmax(g, logits, -1);
    const losses = Sub(g, logSumsOf(g, logits, predicted), ReduceSum(g, Mul(g, rows, own), 1));
    return { range, size, own, logits, predicted, losses };
  });
  const loss = ({ weights, taught, teacherShare }: HeadLoss): Tensor => {
    const parts = pieces.map(({ range, size, own, logits, predicted, losses }) => {
      const back = { rows: size.rows, columns: inner, inner: columns };
      const rowWeights = Slice(g, weights.value, range);
      const teacher = taught && teachRows(g, { taught: Slice(g, taught.value, range), head, logits, predicted, size });
      const sum = teacher ? Add(g, losses, Mul(g, teacher.divergences, g.floats([teacherShare]))) : losses;
      const pulled = teacher
        ? Add(g, predicted, Mul(g, Sub(g, predicted, teacher.wanted), g.floats([teacherShare])))
        : predicted;
      return {
        weighted: Mul(g, sum, Reshape(g, rowWeights, [-1])),
        slope: () =>
          Mul(g, Sub(g, deterministicGemm(g, pulled, head.value, { size: back, transB: false }), own), rowWeights),
      };
    });
    const sum = ReduceSum(g, join(parts.map(({ weighted }) => weighted)), 0);
    return tape.record(
      Reshape(g, sum, [1]),
      [1],
      [[x, (gradient) => Mul(g, join(parts.map(({ slope }) => slope())), gradient)]],
    );
  };
  return { rows: join(pieces.map(({ losses }) => losses)), loss };
}

interface TaughtRows {
  readonly size: ProductSize;
  readonly taught: Value;
  readonly head: Tensor;
  readonly logits: Value;
  readonly predicted: Value;
}

/** Computes a teacher's distributions and the divergence of each row from its own. */
function teachRows(
  g: GraphBuilder,
  { size, taught, head, logits, predicted }: TaughtRows,
): { readonly wanted: Value; readonly divergences: Value } {
  const teacher = deterministicGemm(g, taught, head.value, { size });
  const wanted = Softmax(g, teacher, -1);
  const gap = ReduceSum(g, Mul(g, wanted, Sub(g, teacher, logits)), 1);
  const divergences = Add(g, gap, Sub(g, logSumsOf(g, logits, predicted), logSumsOf(g, teacher, wanted)));
  return { wanted, divergences };
}
