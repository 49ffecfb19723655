// The graph of a whole dense model with a change of low rank: losses of all tokens, and gradients of the change.
// Weights are inputs. Nothing below the first change has a gradient, and frozen weights have none.

import { layerConfig, type ModelConfig } from "@readme-moe/model";
import * as decoder from "../graphs/decoder-layer.ts";
import type { Graph } from "../graphs/graph-builder.ts";
import { TapeOperations, type TapeWeights } from "../autodiff/layer-operations.ts";
import { headLosses } from "../autodiff/losses.ts";
import type { LoraFactor } from "../autodiff/products.ts";
import { Tape, type Tensor } from "../autodiff/tape.ts";
import { headInput } from "../tuning/graphs/loss-graph.ts";
import { graphName, type Product } from "./products.ts";

/** Rows of logits that are in memory together; larger arrays would be returned to the system after each use. */
const HEAD_ROWS = 128;

// Inputs beside weights, and outputs beside gradients.
export const EMBEDDED = "embedded";
export const FINAL_NORM = "final_norm";
export const HEAD = "head";
export const IDS = "ids";
export const WEIGHTS = "weights";
export const MASK = "mask";
export const TAUGHT = "taught";
export const LOSSES = "losses";
export const STATES = "states";

export interface ModelGraphOptions {
  readonly config: ModelConfig;
  /** Shapes of frozen weights, by `graphName`. */
  readonly frozen: ReadonlyMap<string, readonly number[]>;
  /** Shapes of the change's factors; empty without a change. */
  readonly factors: ReadonlyMap<string, readonly number[]>;
  readonly sequences: number;
  readonly sequenceTokens: number;
  /** Factor of the change. */
  readonly scale: number;
  /** Rank of the change, when each row has its own factors of it as the input `MASK`. */
  readonly maskedRank?: number | undefined;
  /** Result: `"losses"` of all rows; these and `"gradients"` of factors; or `"states"`, the inputs of the head. */
  readonly result: "losses" | "gradients" | "states";
  /** Weight of the divergence from a teacher, whose states are the input `TAUGHT`; 0 for none. */
  readonly teacherShare?: number;
}

/**
 * Builds the graph. Inputs: `EMBEDDED` `[rows, hiddenSize]`, the embeddings of `sequences` sequences laid end to end;
 * `FINAL_NORM`, `HEAD`, frozen weights and factors; `IDS`, the tokens that follow, int64 `[rows]`; with gradients
 * `WEIGHTS` `[rows, 1]`. Outputs: `LOSSES` `[rows]` and gradients of factors, or `STATES` `[rows, hiddenSize]`.
 */
export function modelGraph(options: ModelGraphOptions): Graph {
  const { config, sequences, sequenceTokens, scale, maskedRank, result, teacherShare = 0 } = options;
  const { hiddenSize, vocabSize, numLayers } = config;
  const tape = new Tape("low-rank");
  const rows = sequences * sequenceTokens;
  const mask = maskedRank === undefined ? undefined : tape.data(MASK, "float32", [rows, maskedRank]);
  const change = { scale, mask };
  let x = tape.data(EMBEDDED, "float32", [rows, hiddenSize]);
  for (let index = 0; index < numLayers; index++) {
    const half = (name: Product["half"]): TapeOperations => {
      const weights = new HalfWeights(tape, options, { prefix: graphName(index, name, ""), change });
      return new TapeOperations(tape, weights, config, { layer: layerConfig(config, index), sequenceTokens });
    };
    x = decoder.attentionHalf(half("attention"), config, x);
    x = decoder.feedForwardHalf(half("ffn"), config, x, ["expert"]);
  }
  const states = headInput(tape, x, tape.data(FINAL_NORM, "float32", [hiddenSize]), config);
  const g = tape.graph;
  if (result === "states") {
    g.output(STATES, states.value, "float32", states.shape);
    return g.build();
  }
  const head = tape.data(HEAD, "float32", [vocabSize, hiddenSize]);
  const inputs = { x: states, head, ids: tape.data(IDS, "int64", [rows]) };
  const { rows: losses, loss } = headLosses(tape, inputs, HEAD_ROWS);
  g.output(LOSSES, losses, "float32", [rows]);
  if (result === "losses") return g.build();
  const weights = tape.data(WEIGHTS, "float32", [rows, 1]);
  const taught = teacherShare > 0 ? tape.data(TAUGHT, "float32", [rows, hiddenSize]) : undefined;
  return tape.build(loss({ weights, taught, teacherShare }));
}

/** Weights of one half of a layer, each declared as an input when it is first used. */
class HalfWeights implements TapeWeights {
  readonly change: LoraFactor;
  readonly #tape: Tape;
  readonly #options: ModelGraphOptions;
  readonly #prefix: string;
  readonly #made = new Map<string, Tensor>();

  constructor(
    tape: Tape,
    options: ModelGraphOptions,
    { prefix, change }: { readonly prefix: string; readonly change: LoraFactor },
  ) {
    this.#tape = tape;
    this.#options = options;
    this.#prefix = prefix;
    this.change = change;
  }

  has(name: string): boolean {
    const { frozen, factors } = this.#options;
    return frozen.has(this.#prefix + name) || factors.has(this.#prefix + name);
  }

  get(name: string): Tensor {
    const made = this.#made.get(name) ?? this.#declare(this.#prefix + name);
    this.#made.set(name, made);
    return made;
  }

  #declare(name: string): Tensor {
    const { frozen, factors, result } = this.#options;
    const factor = factors.get(name);
    const shape = factor ?? frozen.get(name);
    if (!shape) throw new TypeError(`Expected a weight \`${name}\`, got none`);
    const isTrained = factor !== undefined && result === "gradients";
    return isTrained ? this.#tape.parameter(name, shape) : this.#tape.data(name, "float32", shape);
  }
}
