// The graph of a whole dense model with a change of low rank: losses of all tokens, and gradients of the change.
// Weights are inputs. Nothing below the first change has a gradient, and frozen weights have none.

import { layerConfig, type ModelConfig } from "@readme-moe/model";
import type { LoraFactor } from "../autodiff/arithmetic.ts";
import { TapeOperations, type TapeWeights, tapeWeights } from "../autodiff/layer-operations.ts";
import { headLosses } from "../autodiff/losses.ts";
import { Tape, type Tensor, type WeightKind } from "../autodiff/tape.ts";
import * as decoder from "../graphs/decoder-layer.ts";
import type { Graph } from "../graphs/graph-builder.ts";
import type { DecoderWeights, Weight, WeightGroup } from "../tuning/weights.ts";
import { headInput } from "../tuning/graphs.ts";

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
  /** Shapes of weights that are inputs without gradients, by `graphName`. */
  readonly frozen: ReadonlyMap<string, readonly number[]>;
  /** Shapes of weights that are frozen products, and no inputs; `HEAD` is one of them or an input. */
  readonly products: ReadonlyMap<string, readonly number[]>;
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
      const weights = halfWeights(tape, options, graphName(index, name, ""), change);
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
  const shape = [vocabSize, hiddenSize];
  const head = tape.declare(HEAD, shape, options.products.has(HEAD) ? "frozen" : "data");
  const inputs = { x: states, head, ids: tape.data(IDS, "int64", [rows]) };
  const { rows: losses, loss } = headLosses(tape, inputs, HEAD_ROWS);
  g.output(LOSSES, losses, "float32", [rows]);
  if (result === "losses") return g.build();
  const weights = tape.data(WEIGHTS, "float32", [rows, 1]);
  const taught = teacherShare > 0 ? tape.data(TAUGHT, "float32", [rows, hiddenSize]) : undefined;
  return tape.build(loss({ weights, taught, teacherShare, labelShare: 1 }).loss);
}

/** Makes inputs of the weights of one half of a layer. */
function halfWeights(
  tape: Tape,
  { frozen, products, factors, result }: ModelGraphOptions,
  prefix: string,
  change: LoraFactor,
): TapeWeights {
  const own = [...frozen, ...products, ...factors].filter(([name]) => name.startsWith(prefix));
  const shapes = new Map(own.map(([name, shape]) => [name.slice(prefix.length), shape]));
  const kindOf = (key: string): WeightKind =>
    products.has(key) ? "frozen" : result === "gradients" && factors.has(key) ? "trained" : "data";
  const declare = (name: string, shape: readonly number[]): Tensor =>
    tape.declare(prefix + name, shape, kindOf(prefix + name));
  return tapeWeights(shapes, declare, change);
}

// The products of a layer that experts of low rank change, by their names in graphs and in PEFT's files.

/** Product of one half of a layer. */
export interface Product {
  readonly half: "attention" | "ffn";
  /** Name in the graph of the half. */
  readonly name: string;
  /** Module of PEFT below a layer. */
  readonly module: string;
}

const ATTENTION: readonly Product[] = [
  { half: "attention", name: "query", module: "self_attn.q_proj" },
  { half: "attention", name: "key", module: "self_attn.k_proj" },
  { half: "attention", name: "value", module: "self_attn.v_proj" },
  { half: "attention", name: "output", module: "self_attn.o_proj" },
];

const FEED_FORWARD: readonly Product[] = [
  { half: "ffn", name: "expert.gate", module: "mlp.gate_proj" },
  { half: "ffn", name: "expert.up", module: "mlp.up_proj" },
  { half: "ffn", name: "expert.down", module: "mlp.down_proj" },
];

/** Lists the changed products. @param hasAttention - whether those of attention are among them */
export function changedProducts(hasAttention: boolean): readonly Product[] {
  return hasAttention ? [...ATTENTION, ...FEED_FORWARD] : FEED_FORWARD;
}

/** Returns the name of a weight of a layer's half in the graph of the whole model. */
export function graphName(layer: number, half: Product["half"], name: string): string {
  return `${layer}.${half}.${name}`;
}

/** Joins the weights of each half of a dense model's layer. */
export function halvesOf({
  attention,
  common,
  experts,
}: DecoderWeights["layers"][number]): ReadonlyMap<Product["half"], WeightGroup> {
  return new Map([
    ["attention", attention],
    ["ffn", new Map([...common, ...(experts[0] ?? [])])],
  ]);
}

/** Finds the weight that a product multiplies with, `[out, in]`. */
export function weightOf(layer: DecoderWeights["layers"][number], { half, name }: Product): Weight {
  const weight = halvesOf(layer).get(half)?.get(`${name}.weight`);
  if (!weight) throw new TypeError(`Expected the model to have a weight of ${name}, it has none`);
  return weight;
}
