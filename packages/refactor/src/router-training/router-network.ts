// The router as it is served (see @readme-moe/router), over whole sequences of equal length, with gradients.

import { ROUTER_RMS_NORM_EPSILON, type RouterConfig } from "@readme-moe/model";
import type { Graph } from "@readme-moe/onnx";
import { add, silu } from "../autodiff/arithmetic.ts";
import { crossEntropy } from "../autodiff/cross-entropy.ts";
import { causalSoftmax, rmsNorm } from "../autodiff/normalization.ts";
import { linear, matmul, matmulTransposed } from "../autodiff/products.ts";
import { rotary, rotaryTables } from "../autodiff/rotary.ts";
import { reshape, transpose } from "../autodiff/shapes.ts";
import { Tape, type Tensor } from "../autodiff/tape.ts";

/** Sequences that run together, and their length. */
export interface BatchShape {
  readonly sequences: number;
  readonly tokens: number;
}

/** Shapes of all parameters but the embedding, by the names that a Read-ME folder has, in its order. */
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

/** The input that takes the embeddings of a batch's tokens. */
export const EMBEDDED = "embedded";

/**
 * Inputs: all parameters of `routerShapes`; `EMBEDDED` `[rows, embeddingSize]`, the embeddings of the tokens, row by row, so
 * that the table stays where it is; `targets` `[rows, numExperts]`, see `crossEntropy`. Outputs: see `Tape.build`.
 */
export function trainingGraph(config: RouterConfig, batch: BatchShape): Graph {
  const tape = new Tape("router-training");
  const logits = routerLogits(tape, config, batch, (name, shape) => tape.parameter(name, shape));
  const targets = tape.data("targets", "float32", [batch.sequences * batch.tokens, config.numExperts]);
  return tape.build(crossEntropy(tape, logits, targets));
}

/** Inputs as those of `trainingGraph` without targets; the output is `logits` `[rows, numExperts]`. */
export function predictionGraph(config: RouterConfig, batch: BatchShape): Graph {
  const tape = new Tape("router-prediction");
  const logits = routerLogits(tape, config, batch, (name, shape) => tape.data(name, "float32", shape));
  tape.graph.output("logits", logits.value, "float32", logits.shape);
  return tape.graph.build();
}

type Weights = (name: string, shape: readonly number[]) => Tensor;

function routerLogits(tape: Tape, config: RouterConfig, batch: BatchShape, weights: Weights): Tensor {
  const shapes = routerShapes(config);
  const weight = (name: string): Tensor => weights(name, shapes.get(name) as readonly number[]);
  const apply = (name: string, x: Tensor): Tensor => linear(tape, x, weight(`${name}.weight`), weight(`${name}.bias`));
  const norm = (name: string, x: Tensor): Tensor => rmsNorm(tape, x, weight(`${name}.weight`), ROUTER_RMS_NORM_EPSILON);

  const rows = batch.sequences * batch.tokens;
  let x = weights(EMBEDDED, [rows, config.embeddingSize]);
  const headSize = config.innerSize / config.numHeads;
  const tables = rotaryTables(tape, { type: "default", theta: config.ropeTheta }, headSize, batch.tokens);
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

/** `[sequences, tokens, innerSize]` to `[sequences, numHeads, tokens, headSize]`. */
function toHeads(tape: Tape, x: Tensor, { numHeads, innerSize }: RouterConfig): Tensor {
  const [sequences = 0, tokens = 0] = x.shape;
  return transpose(tape, reshape(tape, x, [sequences, tokens, numHeads, innerSize / numHeads]), [0, 2, 1, 3]);
}
