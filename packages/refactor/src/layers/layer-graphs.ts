// Graphs of one dense layer in float32. Each takes a flat list of tokens; graphs with attention take whole sequences of
// equal length, laid end to end.

import * as decoder from "../graphs/decoder-layer.ts";
import * as operators from "../graphs/operators.ts";
import type { Graph, Value } from "../graphs/graph-builder.ts";
import type { Tensor } from "../autodiff/tape.ts";
import type { LayerExperts, Part } from "../experts/layer-experts.ts";
import { LayerGraph, partWeights, streamShare } from "./layer-graph.ts";
import type { LayerSource } from "./layer-source.ts";

const {
  Abs,
  Add,
  Concat,
  Div,
  Gather,
  Gemm,
  Less,
  Mul,
  ReduceMean,
  ReduceSum,
  Sub,
  TopK,
  Transpose,
  Unsqueeze,
  Where,
} = operators;

/**
 * Builds the graph of the whole dense layer. Input: `hidden` `[tokens, hiddenSize]`. Outputs like it: `next`, the
 * residual stream behind the layer, and `goal`: what the FFN's last product puts out, plus `share` of the stream.
 * `targetOf` subtracts `share` of another stream, so that experts also learn to correct a share of that stream's error.
 * `weights` `[tokens, 1]`: weight of a squared error, see `tokenWeights`. `magnitudes` and `squares`
 * `[intermediateSize]`: sums over tokens of each neuron's |activation|, and of its square.
 */
export function denseLayerGraph(source: LayerSource, share: number, sequenceTokens: number): Graph {
  const layer = new LayerGraph("dense layer", source);
  const { g, config } = layer;
  const attended = layer.attended(layer.input("hidden"), sequenceTokens);
  const { neurons, output, next } = layer.dense(attended);
  layer.output("next", next.value);
  g.output("weights", tokenWeights(layer, attended.value, output.value, next.value), "float32", ["tokens", 1]);
  layer.output("goal", Add(g, output.value, Mul(g, attended.value, g.float(streamShare(source, share)))));
  const size = [config.intermediateSize];
  g.output("magnitudes", ReduceSum(g, Abs(g, neurons.value), 0), "float32", size);
  g.output("squares", ReduceSum(g, Mul(g, neurons.value, neurons.value), 0), "float32", size);
  return g.build();
}

/**
 * Builds the graph of the whole dense layer with the sizes of its products' inputs. Input: `hidden`. Outputs: `next`,
 * the residual stream behind the layer; sums over tokens of squared inputs of attention's first products and the FFN's
 * (`attention`, `ffn`, both `[hiddenSize]`), and of neurons' activations times each other, `gram.<i>` (see
 * `gramStripes`).
 */
export function productInputsGraph(source: LayerSource, sequenceTokens: number): Graph {
  const layer = new LayerGraph("product inputs", source);
  const { g, config } = layer;
  const hidden = layer.input("hidden");
  const attention = layer.attention(sequenceTokens);
  const attentionInput = decoder.halfInput(attention, hidden);
  const { input, neurons, next } = layer.dense(decoder.attentionHalf(attention, config, hidden, attentionInput));
  layer.output("next", next.value);
  const squares = (name: string, { value }: Tensor): void =>
    g.output(name, ReduceSum(g, Mul(g, value, value), 0), "float32", [config.hiddenSize]);
  squares("attention", attentionInput);
  squares("ffn", input);
  layer.gramOutputs(Transpose(g, neurons.value, [1, 0]));
  return g.build();
}

/**
 * Computes one over the mean square of a token's residual stream, which the next norm divides by: the first tokens of
 * texts have streams hundreds of times as large as others', and errors as large. Errors of the FFN's last product reach
 * the stream through its output norm and scale, so they count by what those make of the product. (Fitting is better
 * without weights: much of the rest of the model's attention goes to the first tokens.)
 */
function tokenWeights({ g, source }: LayerGraph, attended: Value, output: Value, next: Value): Value {
  const { refs, config } = source;
  const meanSquare = (x: Value): Value => Add(g, ReduceMean(g, Mul(g, x, x), 1), g.float(1e-6));
  const weights = Div(g, g.float(1), meanSquare(next));
  if (refs.ffnOutputNorm) return Mul(g, weights, Div(g, meanSquare(Sub(g, next, attended)), meanSquare(output)));
  return config.residualScale === 1 ? weights : Mul(g, weights, g.float(config.residualScale ** 2));
}

/**
 * Builds the graph of a regression: what a compressed model's FFN should put out for its own inputs, and its neurons.
 * Inputs: `hidden`, and `goal` like it. Outputs: `attended`, the residual stream behind attention; sums over tokens of
 * neurons times neurons, `gram.<i>` (see `gramStripes`), and neurons times targets, `cross` `[intermediateSize,
 * hiddenSize]`; `neuron_sums`, `target_sums`, `target_squares` (of each of `hiddenSize` channels).
 */
export function momentsGraph(source: LayerSource, share: number, sequenceTokens: number): Graph {
  const layer = new LayerGraph("moments", source);
  const { g, config } = layer;
  const { hiddenSize, intermediateSize } = config;
  const attended = layer.attended(layer.input("hidden"), sequenceTokens);
  const neurons = layer.neurons(attended);
  const target = layer.target(attended, share);
  // Products along tokens read rows of neurons, and stripes of rows are copied as they lie; columns would not be.
  const turned = Transpose(g, neurons.value, [1, 0]);
  layer.output("attended", attended.value);
  layer.gramOutputs(turned);
  g.output("cross", Gemm(g, turned, target, { transB: false }), "float32", [intermediateSize, hiddenSize]);
  g.output("neuron_sums", ReduceSum(g, turned, 1), "float32", [intermediateSize]);
  g.output("target_sums", ReduceSum(g, target, 0), "float32", [hiddenSize]);
  g.output("target_squares", ReduceSum(g, Mul(g, target, target), 0), "float32", [hiddenSize]);
  return g.build();
}

/** Builds the graph of a layer's attention. Input: `hidden`. Output: `attended`, the residual stream behind it. */
export function attentionGraph(source: LayerSource, sequenceTokens: number): Graph {
  const layer = new LayerGraph("attention", source);
  layer.output("attended", layer.attended(layer.input("hidden"), sequenceTokens).value);
  return layer.g.build();
}

/** Builds the graph of one expert's FFN. Input: `attended`. Output: `hidden`, the residual stream behind the layer. */
export function expertGraph(source: LayerSource, { shared, experts }: LayerExperts, expert: number): Graph {
  const layer = new LayerGraph("expert", source);
  const parts = [shared, experts[expert]].filter((part) => part !== undefined);
  const named = parts.map((part, index) => [`part.${index}`, part] as const);
  const weights = [...layer.ffnNorms(), ...named.flatMap(([name, part]) => partWeights(name, source, part))];
  const names = named.map(([name]) => name);
  const next = decoder.feedForwardHalf(layer.ffn(weights), layer.config, layer.input("attended"), names);
  layer.output("hidden", next.value);
  return layer.g.build();
}

/**
 * Builds the graph of each expert's distance from the target. Inputs: `attended`, `goal`, `weights`. Output: `errors`
 * `[tokens, experts]`, weighted squared distances.
 */
export function errorsGraph(source: LayerSource, { shared, experts }: LayerExperts, share: number): Graph {
  const layer = new LayerGraph("errors", source);
  const { g, config } = layer;
  const { hiddenSize } = config;
  const attended = layer.input("attended");
  const turned = Transpose(g, layer.neurons(attended).value, [1, 0]);
  const floats = (name: string, values: Float32Array, shape: readonly number[]): Value =>
    layer.tape.constant(name, "float32", shape, values).value;
  const outputOf = (name: string, { neurons: own, down, bias }: Part): Value =>
    Gemm(g, Gather(g, turned, g.integers(Array.from(own))), floats(`${name}.down`, down, [hiddenSize, own.length]), {
      bias: floats(`${name}.bias`, bias, [hiddenSize]),
      transA: true,
    });
  const target = layer.target(attended, share);
  const rest = shared ? Sub(g, target, outputOf("shared", shared)) : target;
  const weights = g.input("weights", "float32", ["tokens", 1]);
  const errors = experts.map((part, expert) => {
    const missing = Sub(g, rest, outputOf(`${expert}`, part));
    return Unsqueeze(g, ReduceSum(g, Mul(g, missing, missing), 1), [1]);
  });
  g.output("errors", Mul(g, Concat(g, errors, 1), weights), "float32", ["tokens", experts.length]);
  return g.build();
}

/** Ranks of the official code, as shares of an expert's size: a neuron counts once for each rank that it is above. */
const RANKS = [1, 4 / 5, 3 / 5, 2 / 5, 1 / 5] as const;

/**
 * Builds the graph of the scores that the paper's router learns, as in its official code: which share of a token's most
 * active neurons each expert has, without shared ones. Activations count with their sign. Input: `attended` of the
 * dense model. Output: `scores` `[tokens, experts]` in about [0, 1].
 */
export function overlapGraph(source: LayerSource, { experts }: LayerExperts): Graph {
  const layer = new LayerGraph("overlap", source);
  const { g, config } = layer;
  const { intermediateSize } = config;
  const neurons = layer.neurons(layer.input("attended")).value;
  const size = experts[0]?.neurons.length ?? 0;
  const [largest] = TopK(g, neurons, g.integers([size]));
  const [ranked, turned] = [Transpose(g, largest, [1, 0]), Transpose(g, neurons, [1, 0])];
  const grades = RANKS.map((share): Value => {
    const threshold = Gather(g, ranked, g.integers([share === 1 ? size - 1 : Math.floor(share * size)]));
    return Where(g, Less(g, threshold, turned), g.float(1 / (3 * size)), g.float(0));
  });
  const graded = grades.reduce((sum, grade) => Add(g, sum, grade));
  const masks = g.weight("masks", "float32", [experts.length, intermediateSize], () => {
    const rows = new Float32Array(experts.length * intermediateSize);
    experts.forEach(({ neurons: own }, expert) =>
      own.forEach((neuron) => (rows[expert * intermediateSize + neuron] = 1)),
    );
    return new Uint8Array(rows.buffer);
  });
  const scores = Gemm(g, graded, masks, { transA: true });
  g.output("scores", scores, "float32", ["tokens", experts.length]);
  return g.build();
}
