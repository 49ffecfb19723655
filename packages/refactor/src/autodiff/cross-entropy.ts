import { operators } from "@readme-moe/onnx";
import type { Tape, Tensor } from "./tape.ts";

const { Mul, ReduceLogSumExp, ReduceSum, Reshape, Softmax, Sub, Unsqueeze } = operators;

/**
 * The sum over rows of `-Σ target · log softmax(logits)`, `[1]`; both `[rows, classes]`. A row of targets that sums to
 * `w` counts as `w` rows, so that weights are part of the targets and rows of zeros are left out.
 */
export function crossEntropy(tape: Tape, logits: Tensor, targets: Tensor): Tensor {
  const g = tape.graph;
  const weights = ReduceSum(g, targets.value, 1);
  const hit = ReduceSum(g, Mul(g, targets.value, logits.value), 1);
  const rows = Sub(g, Mul(g, weights, ReduceLogSumExp(g, logits.value, 1)), hit);
  const loss = Reshape(g, ReduceSum(g, rows, 0), [1]);
  return tape.record(
    loss,
    [1],
    [
      [
        logits,
        (gradient) => {
          const predicted = Mul(g, Softmax(g, logits.value, -1), Unsqueeze(g, weights, [1]));
          return Mul(g, gradient, Sub(g, predicted, targets.value));
        },
      ],
    ],
  );
}
