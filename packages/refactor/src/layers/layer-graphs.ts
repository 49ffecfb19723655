// Graphs of a dense layer and of its measurements, with the layer's weights as constants.

import { type LayerRefs, type Model, type ModelConfig, layerConfig } from "@readme-moe/model";
import { TapeOperations, type TapeWeights, tapeWeights } from "../autodiff/layer-operations.ts";
import { type Tensor, ANY_ROWS, Tape } from "../autodiff/tape.ts";
import type { DenseDown, LayerExperts, Part } from "../experts/select.ts";
import * as decoder from "../graphs/decoder-layer.ts";
import type { Graph, Value } from "../graphs/graph-builder.ts";
import * as operators from "../graphs/operators.ts";
import { matrix, pickRows } from "../linear-algebra/matrix.ts";
import { deterministicGemm } from "../linear-algebra/deterministic-gemm.ts";

/** One layer of a dense model. */
export interface LayerSource {
  readonly index: number;
  readonly config: ModelConfig;
  readonly refs: LayerRefs;
  readonly ffn: LayerRefs["experts"][number];
}

/** Finds a layer of a dense model. */
export function layerSource({ config, weights }: Pick<Model, "config" | "weights">, index: number): LayerSource {
  const refs = weights.layers[index];
  const ffn = refs?.experts[0];
  if (!refs || !ffn) throw new RangeError(`Expected a layer of a dense model, got layer ${index}`);
  return { index, config, refs, ffn };
}

export async function readDense({ ffn: { down } }: LayerSource): Promise<DenseDown> {
  const { store, name, shape } = down.weight;
  const [rows = 0, columns = 0] = shape;
  const bias = down.bias && (await down.bias.store.readFloats(down.bias.name));
  return { weight: matrix(rows, columns, await store.readFloats(name)), bias };
}

// Graphs of one dense layer in float32. Each takes a flat list of tokens; graphs with attention take whole sequences of
// equal length, laid end to end.

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
  Slice,
  Sqrt,
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

/**
 * Builds the graph of the whole dense layer with its neurons' products, each token weighted as in `denseLayerGraph`.
 * Input: `hidden`. Outputs: `next`, the residual stream behind the layer; sums over tokens of neurons times neurons,
 * `gram.<i>` (see `gramStripes`), of neurons, `neuron_sums` `[intermediateSize]`, and of weights, `count` `[1]`.
 */
export function weightedGramGraph(source: LayerSource, sequenceTokens: number): Graph {
  const layer = new LayerGraph("weighted gram", source);
  const { g, config } = layer;
  const attended = layer.attended(layer.input("hidden"), sequenceTokens);
  const { neurons, output, next } = layer.dense(attended);
  layer.output("next", next.value);
  const weights = tokenWeights(layer, attended.value, output.value, next.value);
  const roots = Sqrt(g, weights);
  layer.gramOutputs(Transpose(g, Mul(g, neurons.value, roots), [1, 0]));
  g.output("neuron_sums", ReduceSum(g, Mul(g, neurons.value, weights), 0), "float32", [config.intermediateSize]);
  g.output("count", ReduceSum(g, weights, 0), "float32", [1]);
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

// A graph of one dense layer under construction: the layer's operations, with its weights as constants.

/**
 * Computes which share of the stream stands for `share` of it in what the FFN's last product puts out. Behind an output
 * norm there is none: the norm is not linear.
 */
function streamShare({ refs, config }: LayerSource, share: number): number {
  return refs.ffnOutputNorm ? 0 : share / config.residualScale;
}

/**
 * Divides the rows of a Gram matrix. It is symmetric: of rows `[from, to)` only columns from `from` are computed, which
 * saves 46 % of the largest product.
 */
export function gramStripes(numNeurons: number): readonly { readonly from: number; readonly to: number }[] {
  const height = Math.max(64, Math.ceil(numNeurons / 12));
  const count = Math.ceil(numNeurons / height);
  return Array.from({ length: count }, (_, i) => ({ from: i * height, to: Math.min(numNeurons, (i + 1) * height) }));
}

/** Constant of a graph, read when the graph's session is opened. */
interface ConstantWeight {
  readonly shape: readonly number[];
  readonly read: () => Promise<Float32Array> | Float32Array;
}

type NamedConstants = readonly (readonly [string, ConstantWeight])[];

/** A graph under construction, and the operations of its layer. */
class LayerGraph {
  readonly source: LayerSource;
  readonly config: LayerSource["config"];
  readonly tape: Tape;
  readonly g: Tape["graph"];

  constructor(name: string, source: LayerSource) {
    this.source = source;
    this.config = source.config;
    this.tape = new Tape(name);
    this.g = this.tape.graph;
  }

  /** Declares an input `[tokens, hiddenSize]`. */
  input(name: string): Tensor {
    return this.tape.data(name, "float32", [ANY_ROWS, this.config.hiddenSize]);
  }

  /** Declares an output `[tokens, hiddenSize]`. */
  output(name: string, value: Value): void {
    this.g.output(name, value, "float32", ["tokens", this.config.hiddenSize]);
  }

  attention(sequenceTokens: number): TapeOperations {
    const weights = this.#constants("attention", constantsOf(decoder.attentionWeights(this.source.refs)));
    const layer = layerConfig(this.config, this.source.index);
    return new TapeOperations(this.tape, weights, this.config, { layer, sequenceTokens });
  }

  /** Computes the residual stream behind attention. */
  attended(hidden: Tensor, sequenceTokens: number): Tensor {
    return decoder.attentionHalf(this.attention(sequenceTokens), this.config, hidden);
  }

  ffn(weights: NamedConstants = [...this.ffnNorms(), ...this.#denseWeights()]): TapeOperations {
    return new TapeOperations(this.tape, this.#constants("ffn", weights), this.config);
  }

  ffnNorms(): NamedConstants {
    return constantsOf(decoder.feedForwardNorms(this.source.refs));
  }

  /** Computes the activations of the dense FFN, `[tokens, intermediateSize]`. */
  neurons(attended: Tensor): Tensor {
    const ffn = this.ffn();
    return decoder.neuronsOf(ffn, "dense", decoder.halfInput(ffn, attended));
  }

  /** Computes the dense FFN: its input, its activations, what its last product puts out, and the stream behind it. */
  dense(attended: Tensor): Readonly<Record<"input" | "neurons" | "output" | "next", Tensor>> {
    const ffn = this.ffn();
    const input = decoder.halfInput(ffn, attended);
    const neurons = decoder.neuronsOf(ffn, "dense", input);
    const output = ffn.linear("dense.down", neurons);
    return { input, neurons, output, next: decoder.joinStream(ffn, this.config, attended, output) };
  }

  /** Declares the input `goal` and computes the experts' target, see `denseLayerGraph`. */
  target(attended: Tensor, share: number): Value {
    const { g } = this;
    const own = Mul(g, attended.value, g.float(streamShare(this.source, share)));
    return Sub(g, this.input("goal").value, own);
  }

  /** @param turned - neurons' activations, `[intermediateSize, tokens]` */
  gramOutputs(turned: Value): void {
    const { g, config } = this;
    const end = config.intermediateSize;
    gramStripes(end).forEach(({ from, to }, index) => {
      const [own, others] = [Slice(g, turned, { start: from, end: to }), Slice(g, turned, { start: from, end })];
      // Batches have more tokens than a piece of a sum, or their sums are one piece in either way.
      const size = { rows: to - from, columns: end - from, inner: Infinity };
      const stripe = deterministicGemm(g, own, others, { size });
      g.output(`gram.${index}`, stripe, "float32", [to - from, end - from]);
    });
  }

  #constants(half: string, weights: NamedConstants): TapeWeights {
    return tapeWeights(new Map(weights), (name, { shape, read }) => this.tape.weight(`${half}.${name}`, shape, read));
  }

  #denseWeights(): NamedConstants {
    return constantsOf(decoder.feedForwardWeights("dense", this.source.ffn));
  }
}

function constantsOf(refs: decoder.NamedWeights): NamedConstants {
  return Array.from(refs, ([name, { store, name: tensor, shape }]) => [
    name,
    { shape, read: () => store.readFloats(tensor) },
  ]);
}

/** Makes the weights of an FFN out of some of the dense one's neurons, with a last product of its own. */
function partWeights(name: string, { config, ffn }: LayerSource, { neurons, down, bias }: Part): NamedConstants {
  const { hiddenSize } = config;
  const size = neurons.length;
  const dense = decoder.feedForwardWeights(name, ffn);
  const picked = Array.from(dense).flatMap(([own, { store, name: tensor, shape }]): [string, ConstantWeight][] => {
    if (own.startsWith(`${name}.down.`)) return [];
    const [, width = 1] = shape;
    const read = async (): Promise<Float32Array> => pickRows(await store.readFloats(tensor), neurons, width);
    return [[own, { shape: [size, ...shape.slice(1)], read }]];
  });
  return [
    ...picked,
    [`${name}.down.weight`, { shape: [hiddenSize, size], read: () => down }],
    [`${name}.down.bias`, { shape: [hiddenSize], read: () => bias }],
  ];
}
