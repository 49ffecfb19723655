// A layer's first half, over sequences of equal length: `hidden + output(attention(norm(hidden)))`.

import { ropeTables, type ModelConfig } from "@readme-moe/model";
import type { Graph } from "@readme-moe/onnx";
import { add } from "../../autodiff/arithmetic.ts";
import { causalAttention } from "../../autodiff/attention.ts";
import { rmsNorm } from "../../autodiff/normalization.ts";
import { rotary, type RotaryTables } from "../../autodiff/rotary.ts";
import { reshape } from "../../autodiff/shapes.ts";
import { Tape, type Tensor } from "../../autodiff/tape.ts";
import { GraphWeights, type WeightShapes } from "./graph-weights.ts";

/** Sequences that run together, and their length. */
export interface BatchShape {
  readonly sequences: number;
  readonly tokens: number;
}

/** A tensor that a half of a layer takes in. */
export const HIDDEN = "hidden";
/** What a half of a layer is given of the gradient of its result. */
export const OUTPUT_GRADIENT = "output_gradient";

/** Inputs: `HIDDEN` `[tokens, hiddenSize]` and `weights`; the output is `next`, as `HIDDEN`. @param layer - of the model */
export function attentionGraph(config: ModelConfig, layer: number, batch: BatchShape, weights: WeightShapes): Graph {
  const tape = new Tape("attention");
  const x = tape.data(HIDDEN, "float32", [batch.sequences * batch.tokens, config.hiddenSize]);
  const next = attentionHalf(tape, x, config, layer, batch, new GraphWeights(tape, weights, false));
  tape.graph.output("next", next.value, "float32", next.shape);
  return tape.graph.build();
}

/** Inputs: as before, and `OUTPUT_GRADIENT`; outputs: the gradients of `HIDDEN` and of what is trained. */
export function attentionGradientGraph(
  config: ModelConfig,
  layer: number,
  batch: BatchShape,
  weights: WeightShapes,
): Graph {
  const tape = new Tape("attention-gradient");
  const x = tape.parameter(HIDDEN, [batch.sequences * batch.tokens, config.hiddenSize]);
  const next = attentionHalf(tape, x, config, layer, batch, new GraphWeights(tape, weights, true));
  return tape.pullback(next, tape.data(OUTPUT_GRADIENT, "float32", next.shape).value);
}

function attentionHalf(
  tape: Tape,
  x: Tensor,
  config: ModelConfig,
  layer: number,
  { sequences, tokens }: BatchShape,
  weights: GraphWeights,
): Tensor {
  const { numHeads, numKvHeads, headSize, rmsNormEpsilon: epsilon } = config;
  const normed = rmsNorm(tape, x, weights.get("norm"), epsilon);
  const tables = rotaryTables(tape, config, { sequences, tokens });
  const turned = (name: string, count: number): Tensor => {
    const rows = weights.linear(name, normed);
    const scaled = weights.has(`${name}_norm`) ? normHeads(tape, rows, weights.get(`${name}_norm`), epsilon) : rows;
    const apart = reshape(tape, scaled, [sequences, tokens, count * headSize]);
    return reshape(tape, rotary(tape, apart, tables), rows.shape);
  };
  const attended = causalAttention(
    tape,
    turned("query", numHeads),
    turned("key", numKvHeads),
    weights.linear("value", normed),
    { sequences, tokens, numHeads, numKvHeads, headSize, window: config.slidingWindows[layer] },
  );
  return add(tape, x, weights.linear("output", attended));
}

/** RMS norm of each head of `x` `[tokens, heads · headSize]` by `scale` `[headSize]`. */
function normHeads(tape: Tape, x: Tensor, scale: Tensor, epsilon: number): Tensor {
  const [rows = 0, width = 0] = x.shape;
  const [headSize = 1] = scale.shape;
  const heads = reshape(tape, x, [(rows * width) / headSize, headSize]);
  return reshape(tape, rmsNorm(tape, heads, scale, epsilon), x.shape);
}

function rotaryTables(tape: Tape, { rope, headSize }: ModelConfig, { sequences, tokens }: BatchShape): RotaryTables {
  const half = headSize / 2;
  const { cos, sin } = ropeTables(rope, headSize, tokens);
  const positions = BigInt64Array.from({ length: sequences * tokens }, (_, row) => BigInt(row % tokens));
  return {
    positions: tape.constant("positions", "int64", [sequences, tokens], positions),
    cos: tape.constant("cos", "float32", [tokens, half], cos),
    sin: tape.constant("sin", "float32", [tokens, half], sin),
  };
}
