import type { Model } from "@readme-moe/model";
import { operators, type Graph } from "@readme-moe/onnx";
import { rmsNorm } from "../autodiff/normalization.ts";
import { linear } from "../autodiff/products.ts";
import { ANY_ROWS, Tape, type Tensor } from "../autodiff/tape.ts";

const { GatherElements, Mul, ReduceLogSumExp, Squeeze, Sub } = operators;

/**
 * Builds the graph from hidden states behind the last layer to the next token's log-probability. Inputs: `hidden` float32
 * `[rows, hiddenSize]`, `targets` int64 `[rows, 1]`. Output: `target_log_probs` `[rows]`.
 */
export function lossGraph({ config, weights }: Pick<Model, "config" | "weights">): Graph {
  const tape = new Tape("loss");
  const g = tape.graph;
  const weight = (name: string, ref: typeof weights.head): Tensor =>
    tape.weight(name, ref.shape, () => ref.store.readFloats(ref.name));
  const hidden = tape.data("hidden", "float32", [ANY_ROWS, config.hiddenSize]);
  const normed = rmsNorm(tape, hidden, weight("final_norm", weights.finalNorm), config.rmsNormEpsilon);
  const product = linear(tape, normed, weight("head", weights.head)).value;
  const logits = config.logitScale === 1 ? product : Mul(g, product, g.float(config.logitScale));
  const targetLogits = GatherElements(g, logits, g.input("targets", "int64", ["rows", 1]), 1);
  const logProbs = Sub(g, Squeeze(g, targetLogits, [1]), ReduceLogSumExp(g, logits, 1));
  g.output("target_log_probs", logProbs, "float32", ["rows"]);
  return g.build();
}
