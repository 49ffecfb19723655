// Graphs of tuning: the halves of layers and the loss, with gradients.

import type { ModelConfig } from "@readme-moe/model";
import { timesNumber } from "../autodiff/arithmetic.ts";
import { type AttentionSetting, TapeOperations, rmsNorm, tapeWeights } from "../autodiff/layer-operations.ts";
import { headLosses } from "../autodiff/losses.ts";
import { ANY_ROWS, Tape, type Tensor, type WeightKind } from "../autodiff/tape.ts";
import * as decoder from "../graphs/decoder-layer.ts";
import type { Graph } from "../graphs/graph-builder.ts";

/** Input of a half: the residual stream. */
export const HIDDEN = "hidden";
/** Gradient of a half's result. */
export const OUTPUT_GRADIENT = "output_gradient";

/** Weights that a graph takes as inputs, by name. */
export interface WeightShapes {
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  /** Names of weights whose gradients are computed. */
  readonly trained: ReadonlySet<string>;
  /** Names of weights that are frozen products, and no inputs. */
  readonly frozen: ReadonlySet<string>;
}

/** Makes a text that is equal for weights that the same graph can serve. */
export function keyOf({ shapes, trained, frozen }: WeightShapes): string {
  return JSON.stringify([[...shapes], [...trained].filter((name) => shapes.has(name)), [...frozen]]);
}

interface HalfGraph {
  readonly config: ModelConfig;
  readonly weights: WeightShapes;
  /** Whether the graph computes gradients instead of the result. */
  readonly hasGradients: boolean;
}

/**
 * Builds the graph of `hidden + output(attention(norm(hidden)))`. Inputs: `HIDDEN` `[tokens, hiddenSize]` and the
 * weights. Without gradients, the output is `next`, shaped like `HIDDEN`. With gradients, `OUTPUT_GRADIENT` is another
 * input, and outputs are the gradients of `HIDDEN` and of trained weights.
 */
export function attentionGraph(half: HalfGraph, setting: AttentionSetting): Graph {
  return buildHalf("attention", half, setting, (operations, x) => decoder.attentionHalf(operations, half.config, x));
}

/**
 * Builds the graph of `hidden + shared(norm(hidden)) + expert(norm(hidden))`, with inputs and outputs as of attention.
 */
export function feedForwardGraph(half: HalfGraph): Graph {
  const parts = half.weights.shapes.has("shared.gate.weight") ? ["expert", "shared"] : ["expert"];
  return buildHalf("feed-forward", half, undefined, (operations, x) =>
    decoder.feedForwardHalf(operations, half.config, x, parts),
  );
}

function buildHalf(
  name: string,
  { config, weights, hasGradients }: HalfGraph,
  attention: AttentionSetting | undefined,
  apply: (operations: TapeOperations, x: Tensor) => Tensor,
): Graph {
  const tape = new Tape(name);
  const shape = [ANY_ROWS, config.hiddenSize];
  const x = hasGradients ? tape.parameter(HIDDEN, shape) : tape.data(HIDDEN, "float32", shape);
  const kindOf = (weight: string): WeightKind =>
    weights.frozen.has(weight) ? "frozen" : hasGradients && weights.trained.has(weight) ? "trained" : "data";
  const inputs = tapeWeights(weights.shapes, (weight, size) => tape.declare(weight, size, kindOf(weight)));
  const next = apply(new TapeOperations(tape, inputs, config, attention), x);
  if (hasGradients) return tape.pullback(next, tape.data(OUTPUT_GRADIENT, "float32", next.shape).value);
  tape.graph.output("next", next.value, "float32", ["rows", config.hiddenSize]);
  return tape.graph.build();
}

// Graphs from the last layer's states to the loss. They take a few rows at a time: a row of logits is as long as the
// vocabulary.

type HeadConfig = Pick<ModelConfig, "hiddenSize" | "vocabSize" | "rmsNormEpsilon" | "normOffset" | "logitScale">;

/**
 * Builds the graph of the loss and its gradients. Inputs: `HIDDEN` and `taught`, student's and teacher's states `[rows,
 * hiddenSize]`; `norm`, `head`, `teacher_norm` and `teacher_head`; `ids` int64 `[rows]`, the tokens that follow;
 * `weights` `[rows, 1]`. Outputs: `loss` `[1]`, the weighted sum of divergences from the teacher and of `labelShare`
 * times cross-entropies; both of each row; gradients of `HIDDEN` and `norm`.
 *
 * @param isFrozen - whether heads are frozen products, and no inputs
 */
export function distillationGraph(
  config: HeadConfig,
  { labelShare, isFrozen }: { readonly labelShare: number; readonly isFrozen: boolean },
): Graph {
  const tape = new Tape("distillation");
  const { hiddenSize, vocabSize } = config;
  const x = tape.parameter(HIDDEN, [ANY_ROWS, hiddenSize]);
  const { rows, loss: lossOf } = rowLosses(tape, x, tape.parameter("norm", [hiddenSize]), {
    ...config,
    isFrozen,
  });
  const taught = tape.data("taught", "float32", [ANY_ROWS, hiddenSize]);
  const { loss, divergences } = lossOf({
    weights: tape.data("weights", "float32", [ANY_ROWS, 1]),
    labelShare,
    teacherShare: 1,
    taught: headInput(tape, taught, tape.data("teacher_norm", "float32", [hiddenSize]), config),
    teacherHead: tape.declare("teacher_head", [vocabSize, hiddenSize], isFrozen ? "frozen" : "data"),
  });
  tape.graph.output("divergences", divergences!, "float32", ["rows"]);
  tape.graph.output("losses", rows, "float32", ["rows"]);
  return tape.build(loss);
}

/**
 * Builds the graph of cross-entropies. Inputs: `HIDDEN` `[rows, hiddenSize]`, `norm`, `head` and `ids`. Output:
 * `losses` `[rows]`.
 */
export function crossEntropyGraph(config: HeadConfig, isFrozen: boolean): Graph {
  const { hiddenSize } = config;
  const tape = new Tape("cross-entropy");
  const x = tape.data(HIDDEN, "float32", [ANY_ROWS, hiddenSize]);
  const { rows } = rowLosses(tape, x, tape.data("norm", "float32", [hiddenSize]), { ...config, isFrozen });
  tape.graph.output("losses", rows, "float32", ["rows"]);
  return tape.graph.build();
}

/** Declares `head` and `ids`, and computes the losses of rows that a graph's caller cuts. */
function rowLosses(
  tape: Tape,
  x: Tensor,
  norm: Tensor,
  config: HeadConfig & { readonly isFrozen: boolean },
): ReturnType<typeof headLosses> {
  const head = tape.declare("head", [config.vocabSize, config.hiddenSize], config.isFrozen ? "frozen" : "data");
  const ids = tape.data("ids", "int64", [ANY_ROWS]);
  return headLosses(tape, { x: headInput(tape, x, norm, config), head, ids }, Infinity);
}

/** Norms rows for the head. The factor of logits is applied here, since the head is linear. */
export function headInput(tape: Tape, x: Tensor, norm: Tensor, config: HeadConfig): Tensor {
  const { rmsNormEpsilon: epsilon, normOffset: offset, logitScale } = config;
  const normed = rmsNorm(tape, x, norm, { epsilon, offset });
  return logitScale === 1 ? normed : timesNumber(tape, normed, logitScale);
}
