// A graph of one dense layer under construction: the layer's operations, with its weights as constants.

import { layerConfig } from "@readme-moe/model";
import * as decoder from "../graphs/decoder-layer.ts";
import * as operators from "../graphs/operators.ts";
import type { Value } from "../graphs/graph-builder.ts";
import { TapeOperations, type TapeWeights } from "../autodiff/layer-operations.ts";
import { ANY_ROWS, Tape, type Tensor } from "../autodiff/tape.ts";
import type { Part } from "../experts/layer-experts.ts";
import { steadyGemm } from "../linear-algebra/steady-gemm.ts";
import { pickRows, type LayerSource } from "./layer-source.ts";

const { Mul, Slice, Sub } = operators;

/**
 * Computes which share of the stream stands for `share` of it in what the FFN's last product puts out. Behind an output
 * norm there is none: the norm is not linear.
 */
export function streamShare({ refs, config }: LayerSource, share: number): number {
  return refs.ffnOutputNorm ? 0 : share / config.residualScale;
}

/**
 * Divides the rows of a Gram matrix. It is symmetric: of rows `[from, to)` only columns from `from` are computed, which
 * saves nearly half of the largest product.
 */
export function gramStripes(numNeurons: number): readonly { readonly from: number; readonly to: number }[] {
  const height = Math.max(64, Math.ceil(numNeurons / 6));
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
export class LayerGraph {
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
    const weights = new ConstantWeights(
      this.tape,
      "attention",
      constantsOf(decoder.attentionWeights(this.source.refs)),
    );
    const layer = layerConfig(this.config, this.source.index);
    return new TapeOperations(this.tape, weights, this.config, { layer, sequenceTokens });
  }

  /** Computes the residual stream behind attention. */
  attended(hidden: Tensor, sequenceTokens: number): Tensor {
    return decoder.attentionHalf(this.attention(sequenceTokens), this.config, hidden);
  }

  ffn(weights: NamedConstants = [...this.ffnNorms(), ...this.#denseWeights()]): TapeOperations {
    return new TapeOperations(this.tape, new ConstantWeights(this.tape, "ffn", weights), this.config);
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
      const stripe = steadyGemm(g, own, others, { size });
      g.output(`gram.${index}`, stripe, "float32", [to - from, end - from]);
    });
  }

  #denseWeights(): NamedConstants {
    return constantsOf(decoder.feedForwardWeights("dense", this.source.ffn));
  }
}

/** Weights as constants of a graph, each added when it is first used. */
class ConstantWeights implements TapeWeights {
  readonly #tape: Tape;
  readonly #prefix: string;
  readonly #weights: ReadonlyMap<string, ConstantWeight>;

  constructor(tape: Tape, prefix: string, weights: NamedConstants) {
    this.#tape = tape;
    this.#prefix = prefix;
    this.#weights = new Map(weights);
  }

  has(name: string): boolean {
    return this.#weights.has(name);
  }

  get(name: string): Tensor {
    const weight = this.#weights.get(name);
    if (!weight) throw new TypeError(`Expected a weight \`${name}\`, got none`);
    return this.#tape.weight(`${this.#prefix}.${name}`, weight.shape, weight.read);
  }
}

function constantsOf(refs: decoder.NamedWeights): NamedConstants {
  return Array.from(refs, ([name, { store, name: tensor, shape }]) => [
    name,
    { shape, read: () => store.readFloats(tensor) },
  ]);
}

/** Makes the weights of an FFN out of some of the dense one's neurons, with a last product of its own. */
export function partWeights(name: string, { config, ffn }: LayerSource, { neurons, down, bias }: Part): NamedConstants {
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
