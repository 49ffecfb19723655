// A layer's second half, over the rows of one expert's tokens: `hidden + shared(norm(hidden)) + expert(norm(hidden))`.

import type { Graph } from "@readme-moe/onnx";
import { add, swiglu } from "../../autodiff/arithmetic.ts";
import { rmsNorm } from "../../autodiff/normalization.ts";
import { ANY_ROWS, Tape, type Tensor } from "../../autodiff/tape.ts";
import { HIDDEN, OUTPUT_GRADIENT } from "./attention-graph.ts";
import { GraphWeights, type WeightShapes } from "./graph-weights.ts";

interface FeedForwardSizes {
  readonly hiddenSize: number;
  readonly rmsNormEpsilon: number;
}

/** Inputs: `HIDDEN` `[rows, hiddenSize]` and `weights`; the output is `next`, as `HIDDEN`. */
export function feedForwardGraph(sizes: FeedForwardSizes, weights: WeightShapes): Graph {
  const tape = new Tape("feed-forward");
  const x = tape.data(HIDDEN, "float32", [ANY_ROWS, sizes.hiddenSize]);
  const next = feedForwardHalf(tape, x, sizes, new GraphWeights(tape, weights, false));
  tape.graph.output("next", next.value, "float32", ["rows", sizes.hiddenSize]);
  return tape.graph.build();
}

/** Inputs: as before, and `OUTPUT_GRADIENT`; outputs: the gradients of `HIDDEN` and of what is trained. */
export function feedForwardGradientGraph(sizes: FeedForwardSizes, weights: WeightShapes): Graph {
  const tape = new Tape("feed-forward-gradient");
  const x = tape.parameter(HIDDEN, [ANY_ROWS, sizes.hiddenSize]);
  const next = feedForwardHalf(tape, x, sizes, new GraphWeights(tape, weights, true));
  return tape.pullback(next, tape.data(OUTPUT_GRADIENT, "float32", next.shape).value);
}

function feedForwardHalf(tape: Tape, x: Tensor, { rmsNormEpsilon }: FeedForwardSizes, weights: GraphWeights): Tensor {
  const normed = rmsNorm(tape, x, weights.get("norm"), rmsNormEpsilon);
  const part = (name: string): Tensor => {
    const inner = swiglu(tape, weights.linear(`${name}.gate`, normed), weights.linear(`${name}.up`, normed));
    return weights.linear(`${name}.down`, inner);
  };
  const routed = add(tape, x, part("expert"));
  return weights.has("shared.gate.weight") ? add(tape, routed, part("shared")) : routed;
}
