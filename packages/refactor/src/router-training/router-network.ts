// The router's network, as @readme-moe/router serves it: its shape, its training graph over sequences of equal length,
// and its form in a Read-ME folder.

import {
  ROUTER_RMS_NORM_EPSILON,
  type ReadMeContent,
  type RouterConfig,
  type SafetensorsInput,
} from "@readme-moe/model";
import type { Graph } from "../graphs/graph-builder.ts";
import { add, silu } from "../autodiff/arithmetic.ts";
import { crossEntropy } from "../autodiff/losses.ts";
import { causalSoftmax, rmsNorm } from "../autodiff/normalization.ts";
import { linear, matmul, matmulTransposed } from "../autodiff/products.ts";
import { rotary, rotaryTables } from "../autodiff/rotary.ts";
import { reshape, transpose } from "../autodiff/shapes.ts";
import { Tape, type Tensor } from "../autodiff/tape.ts";

/** Sizes of a router, named as in `RouterConfig`. */
export type RouterArchitecture = Pick<
  RouterConfig,
  "embeddingSize" | "innerSize" | "numHeads" | "numLayers" | "normalizer" | "ropeTheta"
>;

/** Table 1 of the Read-ME paper. */
export const PAPER_ARCHITECTURE: RouterArchitecture = {
  embeddingSize: 512,
  innerSize: 512,
  numHeads: 4,
  numLayers: 1,
  normalizer: 1,
  ropeTheta: 10000,
};

/** Smaller than the paper's, and more accurate on unseen text. */
export const DEFAULT_ARCHITECTURE: RouterArchitecture = {
  embeddingSize: 128,
  innerSize: 128,
  numHeads: 4,
  numLayers: 1,
  normalizer: Math.sqrt(128 / 4),
  ropeTheta: 10000,
};

/** Parameters by name. */
export type RouterParameters = ReadonlyMap<string, Float32Array>;

/** Number and length of the sequences of a batch. */
export interface BatchShape {
  readonly sequences: number;
  readonly tokens: number;
}

/** Name of the embedding among the parameters. */
export const EMBEDDING = "embed.weight";
/** Input of a graph for the embeddings of a batch's tokens. */
export const EMBEDDED = "embedded";

/** Returns the shapes of all parameters except the embedding, named and ordered as in a Read-ME folder. */
export function routerShapes(config: RouterConfig): ReadonlyMap<string, readonly number[]> {
  const { embeddingSize, innerSize, numExperts, numLayers } = config;
  const shapes = new Map<string, readonly number[]>();
  const addLinear = (name: string, out: number, size: number): void => {
    shapes.set(`${name}.weight`, [out, size]).set(`${name}.bias`, [out]);
  };
  for (let layer = 0; layer < numLayers; layer++) {
    shapes.set(`input_layernorm_${layer}.weight`, [embeddingSize]);
    for (const name of ["q_proj", "k_proj", "v_proj"]) addLinear(`${name}_${layer}`, innerSize, embeddingSize);
    addLinear(`o_proj_${layer}`, embeddingSize, innerSize);
    shapes.set(`post_attention_layernorm_${layer}.weight`, [embeddingSize]);
    addLinear(`proj_1_${layer}`, innerSize, embeddingSize);
    addLinear(`proj_2_${layer}`, embeddingSize, innerSize);
  }
  shapes.set("out_layernorm.weight", [embeddingSize]);
  addLinear("proj_out", numExperts, embeddingSize);
  return shapes;
}

/**
 * Builds the graph of a training step. Inputs: all parameters of `routerShapes`; `EMBEDDED` `[rows, embeddingSize]`,
 * the embeddings of the batch's tokens, so that the table is not copied; `targets` `[rows, numExperts]`, see
 * `crossEntropy`. Outputs: see `Tape.build`.
 */
export function trainingGraph(config: RouterConfig, batch: BatchShape): Graph {
  const tape = new Tape("router-training");
  const logits = routerLogits(tape, config, batch, (name, shape) => tape.parameter(name, shape));
  const targets = tape.data("targets", "float32", [batch.sequences * batch.tokens, config.numExperts]);
  return tape.build(crossEntropy(tape, logits, targets));
}

/** Builds a graph with the inputs of `trainingGraph` without targets; the output is `logits` `[rows, numExperts]`. */
export function predictionGraph(config: RouterConfig, batch: BatchShape): Graph {
  const tape = new Tape("router-prediction");
  const logits = routerLogits(tape, config, batch, (name, shape) => tape.data(name, "float32", shape));
  tape.graph.output("logits", logits.value, "float32", logits.shape);
  return tape.graph.build();
}

type Weights = (name: string, shape: readonly number[]) => Tensor;

function routerLogits(tape: Tape, config: RouterConfig, batch: BatchShape, weights: Weights): Tensor {
  const shapes = routerShapes(config);
  const weight = (name: string): Tensor => weights(name, shapes.get(name)!);
  const apply = (name: string, x: Tensor): Tensor => linear(tape, x, weight(`${name}.weight`), weight(`${name}.bias`));
  const norm = (name: string, x: Tensor): Tensor =>
    rmsNorm(tape, x, weight(`${name}.weight`), { epsilon: ROUTER_RMS_NORM_EPSILON });

  const rows = batch.sequences * batch.tokens;
  let x = weights(EMBEDDED, [rows, config.embeddingSize]);
  const headSize = config.innerSize / config.numHeads;
  const rope = { type: "default", theta: config.ropeTheta } as const;
  const tables = rotaryTables(tape, { set: 0, rope, rotatedSize: headSize, tokens: batch.tokens });
  for (let layer = 0; layer < config.numLayers; layer++) {
    const normed = norm(`input_layernorm_${layer}`, x);
    const rotated = (name: string): Tensor => {
      const flat = reshape(tape, apply(name, normed), [batch.sequences, batch.tokens, config.innerSize]);
      return toHeads(tape, rotary(tape, flat, tables), config);
    };
    const [query, key] = [rotated(`q_proj_${layer}`), rotated(`k_proj_${layer}`)];
    const value = reshape(tape, apply(`v_proj_${layer}`, normed), [batch.sequences, batch.tokens, config.innerSize]);
    const scores = matmulTransposed(tape, query, key, 1 / config.normalizer);
    const attended = matmul(tape, causalSoftmax(tape, scores), toHeads(tape, value, config));
    const joined = reshape(tape, transpose(tape, attended, [0, 2, 1, 3]), [rows, config.innerSize]);
    x = add(tape, x, apply(`o_proj_${layer}`, joined));
    const expanded = silu(tape, apply(`proj_1_${layer}`, norm(`post_attention_layernorm_${layer}`, x)));
    x = add(tape, x, apply(`proj_2_${layer}`, expanded));
  }
  return apply("proj_out", norm("out_layernorm", x));
}

/** Reshapes `[sequences, tokens, innerSize]` to `[sequences, numHeads, tokens, headSize]`. */
function toHeads(tape: Tape, x: Tensor, { numHeads, innerSize }: RouterConfig): Tensor {
  const [sequences = 0, tokens = 0] = x.shape;
  return transpose(tape, reshape(tape, x, [sequences, tokens, numHeads, innerSize / numHeads]), [0, 2, 1, 3]);
}

/** Returns the tensors of a Read-ME folder's router file, in its order. */
export function routerTensors(config: RouterConfig, parameters: RouterParameters): readonly SafetensorsInput[] {
  const shapes = new Map([[EMBEDDING, [config.vocabSize, config.embeddingSize]], ...routerShapes(config)]);
  return Array.from(shapes, ([name, shape]) => {
    const values = parameters.get(name)!;
    const bytes = async (): Promise<Uint8Array> => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    return { name, type: "F32", shape, bytes };
  });
}

/** Returns the router's section of a Read-ME folder's config.json. */
export function routerSection(config: RouterConfig): NonNullable<ReadMeContent["readme"]["router"]> {
  return {
    embedding_size: config.embeddingSize,
    inner_size: config.innerSize,
    num_heads: config.numHeads,
    num_layers: config.numLayers,
    normalizer: config.normalizer,
    rope_theta: config.ropeTheta,
    context_tokens: config.contextTokens,
    activation: "silu",
  };
}
