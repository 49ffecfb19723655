import { logSumExpBlock } from "@readme-moe/core";
import type { GraphBuilder, Value } from "../onnx/graph-builder.ts";
import {
  Gather,
  GatherElements,
  Log,
  ReduceLogSumExp,
  ReduceMax,
  Reshape,
  Softmax,
  Squeeze,
  Sub,
  TopK,
  Unsqueeze,
} from "../onnx/operators.ts";

/**
 * What a step gives back about the next token, from logits `[rows, vocabSize]`. Full logits of a step of 16 would
 * be 3 MB to copy; sampling needs the best few and the log-sum-exp, evaluation one log-probability.
 *
 * Inputs: `num_candidates` int64 `[1]`, `targets` int64 `[rows]`, `full_rows` int64 `[fullRows]` (rows of the logits).
 * Outputs: `candidate_logits` and `candidate_ids` `[rows, num_candidates]`, best first, `log_sum_exp` `[rows]`,
 * `target_log_probs` `[rows]` (of `targets`), `full_logits` `[fullRows, vocabSize]`.
 *
 * There must be at least one row: the runtime's TopK kills the process on none.
 */
export function logitOutputs(g: GraphBuilder, logits: Value, vocabSize: number): void {
  const [values, ids] = TopK(g, logits, g.input("num_candidates", "int64", [1]));
  const logSumExp = blockwiseLogSumExp(g, logits, vocabSize);
  const targets = Unsqueeze(g, g.input("targets", "int64", ["rows"]), [1]);
  const targetLogits = Squeeze(g, GatherElements(g, logits, targets, 1), [1]);
  const full = Gather(g, logits, g.input("full_rows", "int64", ["full_rows"]));
  g.output("candidate_logits", values, "float32", ["rows", "candidates"]);
  g.output("candidate_ids", ids, "int64", ["rows", "candidates"]);
  g.output("log_sum_exp", logSumExp, "float32", ["rows"]);
  g.output("target_log_probs", Sub(g, targetLogits, logSumExp), "float32", ["rows"]);
  g.output("full_logits", full, "float32", ["full_rows", vocabSize]);
}

/**
 * `[rows, vocabSize]` -> `[rows]`, as exact as `logSumExpError` says. The largest share of a block is one over the sum of its
 * exponentials, relative to the largest; the runtime's softmax takes a quarter of the time of its sums of exponentials.
 */
function blockwiseLogSumExp(g: GraphBuilder, logits: Value, vocabSize: number): Value {
  const block = logSumExpBlock(vocabSize);
  const blocks = Reshape(g, logits, [-1, block]);
  const ofBlocks = Sub(g, ReduceMax(g, blocks, 1), Log(g, ReduceMax(g, Softmax(g, blocks, -1), 1)));
  return ReduceLogSumExp(g, Reshape(g, ofBlocks, [-1, vocabSize / block]), 1);
}
