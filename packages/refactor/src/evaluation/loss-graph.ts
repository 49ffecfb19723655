import type { Model } from "@readme-moe/model";
import { GraphBuilder, operators, type Graph } from "@readme-moe/onnx";
import { floatWeight, rmsNorm } from "../layers/float-blocks.ts";

const { Gemm, GatherElements, ReduceLogSumExp, Squeeze, Sub } = operators;

/**
 * From hidden states behind the last layer to the next token's log-probability. Inputs: `hidden` float32 `[rows, hiddenSize]`,
 * `targets` int64 `[rows, 1]`. Output: `target_log_probs` `[rows]`.
 */
export function lossGraph({ config, weights }: Pick<Model, "config" | "weights">): Graph {
  const g = new GraphBuilder("loss");
  const hidden = g.input("hidden", "float32", ["rows", config.hiddenSize]);
  const normed = rmsNorm(g, "final_norm", hidden, weights.finalNorm, config.rmsNormEpsilon);
  const logits = Gemm(g, normed, floatWeight(g, "head", [weights.head]), undefined);
  const targetLogits = GatherElements(g, logits, g.input("targets", "int64", ["rows", 1]), 1);
  const logProbs = Sub(g, Squeeze(g, targetLogits, [1]), ReduceLogSumExp(g, logits, 1));
  g.output("target_log_probs", logProbs, "float32", ["rows"]);
  return g.build();
}
