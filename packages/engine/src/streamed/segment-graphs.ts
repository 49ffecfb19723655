// The decoder cut where experts are: between attention of one layer and that of the next. The same operators on the same
// values as in the whole graph, so that every bit is the same.

import {
  attendedLayer,
  attentionInputs,
  configOfLayer,
  feedForward,
  GraphBuilder,
  logitOutputs,
  normStream,
  operators,
  type Calibration,
  type Graph,
  type Model,
  type Stream,
  type Value,
} from "@readme-moe/model";
import { embedFromHalves, headLogits } from "../decoder-graph.ts";

const { Add, Concat, Gather } = operators;

type Source = Pick<Model, "config" | "weights">;

/**
 * Attention of layer `index`. Inputs: of the first layer `token_ids` int64 `[tokens]`, of others the stream so far, see
 * `streamInputs`; and `attentionInputs` of one layer. Outputs: `next_residual` float32 `[tokens, hiddenSize]`; what experts take in,
 * `rows` uint8 like it and `row_max` float32 `[tokens, 1]`; `next_shared` like `next_residual`, where the layer has shared rows; `new_keys_values` float32
 * `[tokens, 2 * numKvHeads * headSize]`.
 */
export function attentionSegment({ config, weights }: Source, index: number, calibration: Calibration): Graph {
  const g = new GraphBuilder(`attention ${index}`);
  const arithmetic = { precision: "int8", calibration } as const;
  const layer = weights.layers[index] as Model["weights"]["layers"][number];
  const own = configOfLayer(config, index);
  const inputs = attentionInputs(g, config.rope, own);
  const before = weights.layers[index - 1];
  const stream: Stream = before
    ? streamInputs(g, config.hiddenSize, before.shared !== undefined)
    : { residual: embedFromHalves(g, g.input("token_ids", "int64", ["tokens"]), weights.embedding), update: undefined };
  const name = `layers.${index}`;
  const { residual, ffnInput, newKeys, newValues } = attendedLayer(g, name, 0, layer, stream, {
    config: own,
    arithmetic,
    inputs,
  });
  const rowShape = ["tokens", config.hiddenSize];
  g.output("next_residual", residual, "float32", rowShape);
  g.output("rows", ffnInput.rows, "uint8", rowShape);
  g.output("row_max", ffnInput.rowMax as Value, "float32", ["tokens", 1]);
  if (layer.shared) {
    g.output("next_shared", feedForward(g, `${name}.ffn.shared`, ffnInput, layer.shared), "float32", rowShape);
  }
  g.output("new_keys_values", Concat(g, [newKeys, newValues], 1), "float32", [
    "tokens",
    2 * config.numKvHeads * config.headSize,
  ]);
  return g.build();
}

/** From the last layer's experts to logits. Inputs: `streamInputs`, `logit_rows` int64 `[rows]`, and see `logitOutputs`. */
export function headSegment({ config, weights }: Source): Graph {
  const g = new GraphBuilder("head");
  const stream = streamInputs(g, config.hiddenSize, weights.layers.at(-1)?.shared !== undefined);
  const logitRows = g.input("logit_rows", "int64", ["rows"]);
  const wanted = { residual: Gather(g, stream.residual, logitRows), update: Gather(g, stream.update, logitRows) };
  const { normed } = normStream(g, "final_norm", wanted, weights.finalNorm, config.rmsNormEpsilon);
  logitOutputs(g, headLogits(g, normed, weights, undefined), config.vocabSize);
  return g.build();
}

/**
 * Inputs: `residual` float32 `[tokens, hiddenSize]`; `expert_rows` like it, results of one expert after the other; `inverse` int64
 * `[tokens]`, where each token's is; `shared` like `residual`, where the layer has shared rows.
 */
function streamInputs(
  g: GraphBuilder,
  hiddenSize: number,
  hasShared: boolean,
): { readonly residual: Value; readonly update: Value } {
  const rows = (name: string): Value => g.input(name, "float32", ["tokens", hiddenSize]);
  const residual = rows("residual");
  const routed = Gather(g, rows("expert_rows"), g.input("inverse", "int64", ["tokens"]));
  return { residual, update: hasShared ? Add(g, rows("shared"), routed) : routed };
}
