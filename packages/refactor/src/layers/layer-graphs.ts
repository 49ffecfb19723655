// A layer's graphs, in float32, each over a flat list of tokens.

import { GraphBuilder, operators, type Graph, type Value } from "@readme-moe/onnx";
import type { LayerExperts, Part } from "../experts/layer-experts.ts";
import { attentionBlock } from "./attention-block.ts";
import { linear, rmsNorm } from "./float-blocks.ts";
import type { LayerSource } from "./layer-source.ts";
import { pickRows } from "./pick-rows.ts";

const {
  Abs,
  Add,
  Concat,
  Div,
  Gather,
  Gemm,
  Mul,
  QuickGelu,
  ReduceMean,
  ReduceSum,
  SliceRows,
  Sub,
  Transpose,
  Unsqueeze,
} = operators;

/**
 * The whole dense layer. Inputs: `hidden` `[tokens, hiddenSize]`, and see `attentionFeeds`. Outputs like it: `next`, the residual
 * stream behind the layer, and `goal`, what the FFN adds plus `share` of the stream that it adds it to, so that
 * `goal - share · (another stream there)` is that addition plus a share of the other stream's error. `weights` `[tokens, 1]`: what
 * a squared error counts, see `tokenWeights`. `magnitudes` and `squares` `[intermediateSize]`: sums over tokens of each neuron's |activation|, and of its square.
 */
export function denseLayerGraph(source: LayerSource, share: number): Graph {
  const g = new GraphBuilder("dense layer");
  const attended = attendedStream(g, source, g.input("hidden", "float32", ["tokens", source.config.hiddenSize]));
  const neurons = activations(g, source, attended);
  const update = linear(g, "down", neurons, [source.ffn.down]);
  const next = Add(g, attended, update);
  hiddenOutput(g, source, "next", next);
  g.output("weights", tokenWeights(g, next), "float32", ["tokens", 1]);
  hiddenOutput(g, source, "goal", Add(g, update, Mul(g, attended, g.float(share))));
  const size = [source.config.intermediateSize];
  g.output("magnitudes", ReduceSum(g, Abs(g, neurons), 0), "float32", size);
  g.output("squares", ReduceSum(g, Mul(g, neurons, neurons), 0), "float32", size);
  return g.build();
}

/**
 * The whole dense layer, and how much comes to its products. Input: `hidden`, see `attentionFeeds`. Outputs: `next`, the residual stream
 * behind the layer; sums over tokens of squares, of what attention's first products and the FFN's are given (`attention`, `ffn`,
 * both `[hiddenSize]`), and of neurons' activations times each other, `gram.<i>` (see `gramStripes`).
 */
export function productInputsGraph(source: LayerSource): Graph {
  const { hiddenSize } = source.config;
  const g = new GraphBuilder("product inputs");
  const hidden = g.input("hidden", "float32", ["tokens", hiddenSize]);
  const attentionInput = attentionNorm(g, source, hidden);
  const attended = attendedFrom(g, source, hidden, attentionInput);
  const ffnInput = normedStream(g, source, attended);
  const neurons = activationsOf(g, source, ffnInput);
  hiddenOutput(g, source, "next", Add(g, attended, linear(g, "down", neurons, [source.ffn.down])));
  const squares = (name: string, rows: Value, size: number): void =>
    g.output(name, ReduceSum(g, Mul(g, rows, rows), 0), "float32", [size]);
  squares("attention", attentionInput, hiddenSize);
  squares("ffn", ffnInput, hiddenSize);
  gramOutputs(g, source, Transpose(g, neurons, [1, 0]));
  return g.build();
}

/**
 * One over the mean square of a token's residual stream, which the next norm divides by: the first tokens of texts have streams
 * hundreds of times as large as others', and errors that are as large. (Fitting is better off without: to the rest
 * of the model, those tokens are what much attention goes to.)
 */
function tokenWeights(g: GraphBuilder, stream: Value): Value {
  return Div(g, g.float(1), Add(g, ReduceMean(g, Mul(g, stream, stream), 1), g.float(1e-6)));
}

/**
 * What a compressed model's FFN would have to do with its own inputs, and what it has to do it with. Inputs: `hidden`, see
 * `attentionFeeds`; `goal` like `hidden`. The target is `goal - share · attended`. Outputs: `attended`; sums over tokens of neurons
 * times neurons, `gram.<i>` (see `gramStripes`), and neurons times targets, `cross`
 * `[intermediateSize, hiddenSize]`; `neuron_sums`, `target_sums`, `target_squares` (of each of `hiddenSize` channels).
 */
export function momentsGraph(source: LayerSource, share: number): Graph {
  const { hiddenSize, intermediateSize } = source.config;
  const g = new GraphBuilder("moments");
  const attended = attendedStream(g, source, g.input("hidden", "float32", ["tokens", hiddenSize]));
  const neurons = activations(g, source, attended);
  const target = targetOf(g, attended, hiddenSize, share);
  // Products along tokens read rows of neurons, and stripes of rows are copied as they lie; columns would not be.
  const turned = Transpose(g, neurons, [1, 0]);
  hiddenOutput(g, source, "attended", attended);
  gramOutputs(g, source, turned);
  g.output("cross", Gemm(g, turned, target, undefined, { transB: false }), "float32", [intermediateSize, hiddenSize]);
  g.output("neuron_sums", ReduceSum(g, turned, 1), "float32", [intermediateSize]);
  g.output("target_sums", ReduceSum(g, target, 0), "float32", [hiddenSize]);
  g.output("target_squares", ReduceSum(g, Mul(g, target, target), 0), "float32", [hiddenSize]);
  return g.build();
}

/** @param turned - neurons' activations, `[intermediateSize, tokens]` */
function gramOutputs(g: GraphBuilder, { config: { intermediateSize } }: LayerSource, turned: Value): void {
  gramStripes(intermediateSize).forEach(({ from, to }, index) => {
    const stripe = Gemm(g, SliceRows(g, turned, from, to), SliceRows(g, turned, from, intermediateSize), undefined);
    g.output(`gram.${index}`, stripe, "float32", [to - from, intermediateSize - from]);
  });
}

/** A layer's attention. Inputs: `hidden`, see `attentionFeeds`. Output: `attended`, the residual stream behind it. */
export function attentionGraph(source: LayerSource): Graph {
  const g = new GraphBuilder("attention");
  const hidden = g.input("hidden", "float32", ["tokens", source.config.hiddenSize]);
  hiddenOutput(g, source, "attended", attendedStream(g, source, hidden));
  return g.build();
}

/**
 * A Gram matrix is symmetric: of its rows `[from, to)` only columns from `from` on are computed, which saves nearly half
 * of the largest product.
 */
export function gramStripes(numNeurons: number): readonly { readonly from: number; readonly to: number }[] {
  const height = Math.max(64, Math.ceil(numNeurons / 6));
  const count = Math.ceil(numNeurons / height);
  return Array.from({ length: count }, (_, i) => ({ from: i * height, to: Math.min(numNeurons, (i + 1) * height) }));
}

/**
 * The FFN of one expert. Input: `attended`. Output: `hidden`, the residual stream behind the layer.
 */
export function expertGraph(source: LayerSource, { shared, experts }: LayerExperts, expert: number): Graph {
  const g = new GraphBuilder("expert");
  const attended = g.input("attended", "float32", ["tokens", source.config.hiddenSize]);
  const normed = normedStream(g, source, attended);
  const parts = [shared, experts[expert]].filter((part): part is Part => part !== undefined);
  const updates = parts.map((part, index) => partOutput(g, source, `part.${index}`, normed, part));
  hiddenOutput(
    g,
    source,
    "hidden",
    updates.reduce((sum, update) => Add(g, sum, update), attended),
  );
  return g.build();
}

/**
 * How far each expert is from the target. Inputs: `attended`, `goal`, `weights`. Output: `errors` `[tokens, experts]`, weighted squared
 * distances.
 */
export function errorsGraph(source: LayerSource, { shared, experts }: LayerExperts, share: number): Graph {
  const { hiddenSize } = source.config;
  const g = new GraphBuilder("errors");
  const attended = g.input("attended", "float32", ["tokens", hiddenSize]);
  const turned = Transpose(g, activations(g, source, attended), [1, 0]);
  const pick = (name: string, { neurons: own, down, bias }: Part): Value =>
    Gemm(
      g,
      Gather(g, turned, g.integers(Array.from(own))),
      floats(g, `${name}.down`, down, [hiddenSize, own.length]),
      floats(g, `${name}.bias`, bias, [hiddenSize]),
      { transA: true },
    );
  const target = targetOf(g, attended, hiddenSize, share);
  const rest = shared ? Sub(g, target, pick("shared", shared)) : target;
  const weights = g.input("weights", "float32", ["tokens", 1]);
  const errors = experts.map((part, expert) => {
    const missing = Sub(g, rest, pick(`${expert}`, part));
    return Unsqueeze(g, ReduceSum(g, Mul(g, missing, missing), 1), [1]);
  });
  g.output("errors", Mul(g, Concat(g, errors, 1), weights), "float32", ["tokens", experts.length]);
  return g.build();
}

function targetOf(g: GraphBuilder, attended: Value, hiddenSize: number, share: number): Value {
  return Sub(g, g.input("goal", "float32", ["tokens", hiddenSize]), Mul(g, attended, g.float(share)));
}

function attendedStream(g: GraphBuilder, source: LayerSource, hidden: Value): Value {
  return attendedFrom(g, source, hidden, attentionNorm(g, source, hidden));
}

function attentionNorm(g: GraphBuilder, { config, refs }: LayerSource, hidden: Value): Value {
  return rmsNorm(g, "input_norm", hidden, refs.inputNorm, config.rmsNormEpsilon);
}

function attendedFrom(g: GraphBuilder, { config, refs }: LayerSource, hidden: Value, normed: Value): Value {
  return Add(g, hidden, attentionBlock(g, normed, refs.attention, config));
}

function normedStream(g: GraphBuilder, { config, refs }: LayerSource, attended: Value): Value {
  return rmsNorm(g, "post_attention_norm", attended, refs.postAttentionNorm, config.rmsNormEpsilon);
}

/** `silu(gate(x)) · up(x)` of all neurons, `[tokens, intermediateSize]`. */
export function activations(g: GraphBuilder, source: LayerSource, attended: Value): Value {
  return activationsOf(g, source, normedStream(g, source, attended));
}

function activationsOf(g: GraphBuilder, { ffn }: LayerSource, normed: Value): Value {
  return Mul(g, QuickGelu(g, linear(g, "gate", normed, [ffn.gate]), 1), linear(g, "up", normed, [ffn.up]));
}

/** `down(silu(gate(x)) · up(x))` of some neurons with their own `down`. */
function partOutput(
  g: GraphBuilder,
  { config, ffn }: LayerSource,
  name: string,
  normed: Value,
  { neurons, down, bias }: Part,
): Value {
  const { hiddenSize } = config;
  const size = neurons.length;
  const rows = (part: string, { weight, bias: own }: typeof ffn.gate): Value => {
    const picked = g.weight(`${name}.${part}`, "float32", [size, hiddenSize], async () =>
      bytesOf(pickRows(await weight.store.readFloats(weight.name), neurons, hiddenSize)),
    );
    const offset =
      own &&
      g.weight(`${name}.${part}.bias`, "float32", [size], async () =>
        bytesOf(pickRows(await own.store.readFloats(own.name), neurons, 1)),
      );
    return Gemm(g, normed, picked, offset);
  };
  const inner = Mul(g, QuickGelu(g, rows("gate", ffn.gate), 1), rows("up", ffn.up));
  const weight = floats(g, `${name}.down`, down, [hiddenSize, size]);
  return Gemm(g, inner, weight, floats(g, `${name}.down.bias`, bias, [hiddenSize]));
}

function floats(g: GraphBuilder, name: string, values: Float32Array, shape: readonly number[]): Value {
  return g.weight(name, "float32", shape, () => bytesOf(values));
}

function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

function hiddenOutput(g: GraphBuilder, { config }: LayerSource, name: string, value: Value): void {
  g.output(name, value, "float32", ["tokens", config.hiddenSize]);
}
