// Graphs of a layer's halves for tuning: attention over sequences of equal length, and an FFN over the rows of one
// expert's tokens. Weights are inputs, so that layers whose weights have the same shapes share their graphs.

import type { ModelConfig } from "@readme-moe/model";
import * as decoder from "../../graphs/decoder-layer.ts";
import type { Graph } from "../../graphs/graph-builder.ts";
import { type AttentionSetting, TapeOperations, type TapeWeights } from "../../autodiff/layer-operations.ts";
import { ANY_ROWS, Tape, type Tensor } from "../../autodiff/tape.ts";

/** Input of a half: the residual stream. */
export const HIDDEN = "hidden";
/** Gradient of a half's result. */
export const OUTPUT_GRADIENT = "output_gradient";

/** Weights that a graph takes as inputs, by name. */
export interface WeightShapes {
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  /** Names of weights whose gradients are computed. */
  readonly trained: ReadonlySet<string>;
}

/** Makes a text that is equal for weights that the same graph can serve. */
export function keyOf({ shapes, trained }: WeightShapes): string {
  return JSON.stringify([[...shapes], [...trained].filter((name) => shapes.has(name))]);
}

/** One graph of a half. */
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
  const inputs = new InputWeights(tape, weights, hasGradients);
  const next = apply(new TapeOperations(tape, inputs, config, attention), x);
  if (hasGradients) return tape.pullback(next, tape.data(OUTPUT_GRADIENT, "float32", next.shape).value);
  tape.graph.output("next", next.value, "float32", ["rows", config.hiddenSize]);
  return tape.graph.build();
}

/** Weights as inputs of a graph, each declared when it is first used. */
class InputWeights implements TapeWeights {
  readonly #tape: Tape;
  readonly #weights: WeightShapes;
  readonly #made = new Map<string, Tensor>();
  readonly #hasGradients: boolean;

  constructor(tape: Tape, weights: WeightShapes, hasGradients: boolean) {
    this.#tape = tape;
    this.#weights = weights;
    this.#hasGradients = hasGradients;
  }

  has(name: string): boolean {
    return this.#weights.shapes.has(name);
  }

  get(name: string): Tensor {
    const known = this.#made.get(name);
    if (known) return known;
    const shape = this.#weights.shapes.get(name);
    if (!shape) throw new TypeError(`Expected a weight \`${name}\`, got none`);
    const isParameter = this.#hasGradients && this.#weights.trained.has(name);
    const made = isParameter ? this.#tape.parameter(name, shape) : this.#tape.data(name, "float32", shape);
    this.#made.set(name, made);
    return made;
  }
}
