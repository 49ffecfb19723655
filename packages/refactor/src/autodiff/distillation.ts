// Loss of a student, from its teacher's logits and from the text, over a whole vocabulary.

import { operators, type GraphBuilder, type Value } from "@readme-moe/onnx";
import type { Tape, Tensor } from "./tape.ts";

const { Add, Gather, Log, Mul, ReduceMax, ReduceSum, Reshape, Softmax, Sub, Unsqueeze } = operators;

export interface DistilledLogits {
  /** `[rows, vocabulary]` */
  readonly logits: Tensor;
  /** Like `logits`; has no gradient. */
  readonly teacher: Tensor;
  /** `[rows, 1]`; have no gradient. */
  readonly weights: Tensor;
}

export interface Distillation {
  /** Without a gradient, `[rows]`: `Σ teacher · (log teacher - log student)`. */
  readonly divergences: Tensor;
  /** `[1]`, `Σ weight · (divergence + labelShare · log Σ exp(logits))` */
  readonly loss: Tensor;
  /** `[rows]`, `log Σ exp(logits)` */
  readonly logSums: Tensor;
}

/**
 * Computes the divergence of the student's next tokens from the teacher's, and the part of a cross-entropy that depends on
 * all logits; both in one, so that there is one gradient `[rows, vocabulary]`. The other part is `pickedLogits`.
 */
export function distill(tape: Tape, { logits, teacher, weights }: DistilledLogits, labelShare: number): Distillation {
  const g = tape.graph;
  const taught = Softmax(g, teacher.value, -1);
  const said = Softmax(g, logits.value, -1);
  const logSums = logSumsOf(g, logits.value, said);
  const gap = ReduceSum(g, Mul(g, taught, Sub(g, teacher.value, logits.value)), 1);
  const divergences = Add(g, gap, Sub(g, logSums, logSumsOf(g, teacher.value, taught)));
  const rows = Add(g, divergences, Mul(g, g.floats([labelShare]), logSums));
  const loss = Reshape(g, ReduceSum(g, Mul(g, rows, Reshape(g, weights.value, [-1])), 0), [1]);
  const rowShape = logits.shape.slice(0, 1);
  return {
    divergences: { value: divergences, shape: rowShape, needsGradient: false },
    logSums: { value: logSums, shape: rowShape, needsGradient: false },
    loss: tape.record(
      loss,
      [1],
      [
        [
          logits,
          (gradient) => {
            const predicted = Mul(g, g.floats([1 + labelShare]), said);
            return Mul(g, Sub(g, predicted, taught), Mul(g, gradient, weights.value));
          },
        ],
      ],
    ),
  };
}

/** Computes `log Σ exp` of each row from its largest logit and probability, without exponentials of a vocabulary. */
function logSumsOf(g: GraphBuilder, logits: Value, probabilities: Value): Value {
  const logSums = Sub(g, ReduceMax(g, logits, 1), Log(g, ReduceMax(g, probabilities, 1)));
  return Reshape(g, logSums, [-1]);
}

/**
 * Computes each row's logit of its own token, `[rows]`: the row times the token's row of `head` `[vocabulary, size]`, which has no
 * gradient.
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

/** `[1]`: `Σ factor · x` of `x` `[rows]` and `weights` `[rows, 1]`, which have no gradient. */
export function weightedSum(tape: Tape, x: Tensor, weights: Tensor, factor: number): Tensor {
  const g = tape.graph;
  const shares = Mul(g, Reshape(g, weights.value, [-1]), g.floats([factor]));
  const sum = Reshape(g, ReduceSum(g, Mul(g, x.value, shares), 0), [1]);
  return tape.record(sum, [1], [[x, (gradient) => Mul(g, shares, gradient)]]);
}
