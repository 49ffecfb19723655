import {
  floatWeight,
  GraphBuilder,
  logitOutputs,
  normStream,
  operators,
  type Graph,
  type Model,
} from "@readme-moe/model";

/**
 * From hidden states behind the last layer to the next token's log-probability. Inputs: `hidden` float32 `[rows, hiddenSize]`,
 * and see `logitOutputs`; outputs: see there.
 */
export function lossGraph({ config, weights }: Pick<Model, "config" | "weights">): Graph {
  const g = new GraphBuilder("loss");
  const stream = { residual: g.input("hidden", "float32", ["rows", config.hiddenSize]), update: undefined };
  const { normed } = normStream(g, "final_norm", stream, weights.finalNorm, config.rmsNormEpsilon);
  const logits = operators.Gemm(g, normed, floatWeight(g, "head", [weights.head]), undefined);
  logitOutputs(g, logits, config.vocabSize);
  return g.build();
}
