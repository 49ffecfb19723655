// From behind the last layer to the loss, a few rows at a time: rows of logits are as long as the vocabulary.

import { operators, type Graph } from "@readme-moe/onnx";
import { add } from "../../autodiff/arithmetic.ts";
import { distill, pickedLogits, weightedSum } from "../../autodiff/losses.ts";
import { rmsNorm } from "../../autodiff/normalization.ts";
import { linear } from "../../autodiff/products.ts";
import { ANY_ROWS, Tape, type Tensor } from "../../autodiff/tape.ts";
import { HIDDEN } from "./attention-graph.ts";

interface HeadSizes {
  readonly hiddenSize: number;
  readonly vocabSize: number;
  readonly rmsNormEpsilon: number;
}

/**
 * Inputs: `HIDDEN` and `taught`, student's and teacher's states `[rows, hiddenSize]`; `norm`, `head`, `teacher_norm` and
 * `teacher_head`; `ids` int64 `[rows]`, the tokens that follow; `weights` `[rows, 1]`. Outputs: `loss` `[1]`, the weighted sum of
 * divergences from the teacher and of `labelShare` times cross-entropies; both of each row; gradients of `HIDDEN` and,
 * if it is trained, of `norm`.
 */
export function distillationGraph(sizes: HeadSizes, labelShare: number, trainsNorm: boolean): Graph {
  const tape = new Tape("distillation");
  const { hiddenSize, vocabSize, rmsNormEpsilon: epsilon } = sizes;
  const rows = (name: string): Tensor => tape.data(name, "float32", [ANY_ROWS, hiddenSize]);
  const table = (name: string): Tensor => tape.data(name, "float32", [vocabSize, hiddenSize]);
  const x = tape.parameter(HIDDEN, [ANY_ROWS, hiddenSize]);
  const scale = trainsNorm ? tape.parameter("norm", [hiddenSize]) : tape.data("norm", "float32", [hiddenSize]);
  const head = table("head");
  const normed = rmsNorm(tape, x, scale, epsilon);
  const taught = rmsNorm(tape, rows("taught"), tape.data("teacher_norm", "float32", [hiddenSize]), epsilon);
  const weights = tape.data("weights", "float32", [ANY_ROWS, 1]);
  const logits = linear(tape, normed, head);
  const teacher = linear(tape, taught, table("teacher_head"));
  const { divergences, logSums, loss } = distill(tape, { logits, teacher, weights }, labelShare);
  const picked = pickedLogits(tape, normed, head, tape.data("ids", "int64", [ANY_ROWS]));
  const total = add(tape, loss, weightedSum(tape, picked, weights, -labelShare));
  const g = tape.graph;
  g.output("divergences", divergences.value, "float32", ["rows"]);
  g.output("losses", operators.Sub(g, logSums.value, picked.value), "float32", ["rows"]);
  return tape.build(total);
}

/** Inputs: `HIDDEN` `[rows, hiddenSize]`, `norm`, `head` and `ids`; the output is `losses` `[rows]`: cross-entropies. */
export function crossEntropyGraph({ hiddenSize, vocabSize, rmsNormEpsilon }: HeadSizes): Graph {
  const tape = new Tape("cross-entropy");
  const x = tape.data(HIDDEN, "float32", [ANY_ROWS, hiddenSize]);
  const head = tape.data("head", "float32", [vocabSize, hiddenSize]);
  const normed = rmsNorm(tape, x, tape.data("norm", "float32", [hiddenSize]), rmsNormEpsilon);
  const picked = pickedLogits(tape, normed, head, tape.data("ids", "int64", [ANY_ROWS]));
  const g = tape.graph;
  const logSums = operators.ReduceLogSumExp(g, linear(tape, normed, head).value, 1);
  g.output("losses", operators.Sub(g, logSums, picked.value), "float32", ["rows"]);
  return g.build();
}
