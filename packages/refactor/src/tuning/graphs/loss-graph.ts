// Graphs from the last layer's states to the loss. They take a few rows at a time: a row of logits is as long as the
// vocabulary.

import type { ModelConfig } from "@readme-moe/model";
import * as operators from "../../graphs/operators.ts";
import type { Graph } from "../../graphs/graph-builder.ts";
import { add, scale } from "../../autodiff/arithmetic.ts";
import { distill, pickedLogits, weightedSum } from "../../autodiff/losses.ts";
import { rmsNorm } from "../../autodiff/normalization.ts";
import { linear } from "../../autodiff/products.ts";
import { ANY_ROWS, Tape, type Tensor } from "../../autodiff/tape.ts";
import { HIDDEN } from "./half-graphs.ts";

type HeadConfig = Pick<ModelConfig, "hiddenSize" | "vocabSize" | "rmsNormEpsilon" | "normOffset" | "logitScale">;

/**
 * Builds the graph of the loss and its gradients. Inputs: `HIDDEN` and `taught`, student's and teacher's states `[rows,
 * hiddenSize]`; `norm`, `head`, `teacher_norm` and `teacher_head`; `ids` int64 `[rows]`, the tokens that follow;
 * `weights` `[rows, 1]`. Outputs: `loss` `[1]`, the weighted sum of divergences from the teacher and of `labelShare`
 * times cross-entropies; both of each row; gradients of `HIDDEN` and `norm`.
 */
export function distillationGraph(config: HeadConfig, labelShare: number): Graph {
  const tape = new Tape("distillation");
  const { hiddenSize, vocabSize } = config;
  const rows = (name: string): Tensor => tape.data(name, "float32", [ANY_ROWS, hiddenSize]);
  const table = (name: string): Tensor => tape.data(name, "float32", [vocabSize, hiddenSize]);
  const x = tape.parameter(HIDDEN, [ANY_ROWS, hiddenSize]);
  const head = table("head");
  const normed = headInput(tape, x, tape.parameter("norm", [hiddenSize]), config);
  const taught = headInput(tape, rows("taught"), tape.data("teacher_norm", "float32", [hiddenSize]), config);
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

/**
 * Builds the graph of cross-entropies. Inputs: `HIDDEN` `[rows, hiddenSize]`, `norm`, `head` and `ids`. Output:
 * `losses` `[rows]`.
 */
export function crossEntropyGraph(config: HeadConfig): Graph {
  const { hiddenSize, vocabSize } = config;
  const tape = new Tape("cross-entropy");
  const x = tape.data(HIDDEN, "float32", [ANY_ROWS, hiddenSize]);
  const head = tape.data("head", "float32", [vocabSize, hiddenSize]);
  const normed = headInput(tape, x, tape.data("norm", "float32", [hiddenSize]), config);
  const picked = pickedLogits(tape, normed, head, tape.data("ids", "int64", [ANY_ROWS]));
  const g = tape.graph;
  const logSums = operators.ReduceLogSumExp(g, linear(tape, normed, head).value, 1);
  g.output("losses", operators.Sub(g, logSums, picked.value), "float32", ["rows"]);
  return g.build();
}

/** Norms rows for the head. The factor of logits is applied here, since the head is linear. */
export function headInput(tape: Tape, x: Tensor, norm: Tensor, config: HeadConfig): Tensor {
  const { rmsNormEpsilon: epsilon, normOffset: offset, logitScale } = config;
  const normed = rmsNorm(tape, x, norm, { epsilon, offset });
  return logitScale === 1 ? normed : scale(tape, normed, logitScale);
}
