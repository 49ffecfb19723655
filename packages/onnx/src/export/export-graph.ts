import type { FeedForwardRefs, Model } from "@readme-moe/model";
import { type Graph, GraphBuilder, type Value } from "../graph/graph-builder.ts";
import { nameOutputs } from "../graph/name-outputs.ts";
import { Add, Mul, Sigmoid } from "../graph/operators.ts";
import { exportAttention, type ExportCache, exportPositions } from "./export-attention.ts";
import { exportEmbedding, type ExportDtype, exportInput, exportLinear, exportProduct } from "./export-linear.ts";
import { exportNorm } from "./export-norm.ts";

/**
 * A dense model as the graph that transformers.js runs: what exporting it from PyTorch gives. Not what our engine runs:
 * the past is copied at every step, and padding is computed.
 *
 * Inputs: `input_ids`, `position_ids` int64 `[batch, sequence]`, `attention_mask` int64 `[batch, past + sequence]` (0 for
 * padding), `past_key_values.{layer}.key` and `.value` float32 `[batch, numKvHeads, past, headSize]`.
 *
 * Outputs: `logits` float32 `[batch, sequence, vocabSize]`, `present.{layer}.key` and `.value`, grown by `sequence`.
 */
export function exportGraph({ config, weights }: Pick<Model, "config" | "weights">, dtype: ExportDtype): Graph {
  const g = new GraphBuilder("main_graph");
  const { numKvHeads, headSize, rmsNormEpsilon: epsilon } = config;
  const tokenIds = g.input("input_ids", "int64", ["batch_size", "sequence_length"]);
  const attentionMask = g.input("attention_mask", "int64", ["batch_size", "total_sequence_length"]);
  const positionIds = g.input("position_ids", "int64", ["batch_size", "sequence_length"]);
  const positions = exportPositions(g, config, { tokenIds, attentionMask, positions: positionIds });
  const embedding = exportEmbedding(g, "model.embed_tokens.weight", tokenIds, weights.embedding, dtype);
  const cacheShape = (positionsName: string): readonly (string | number)[] => [
    "batch_size",
    numKvHeads,
    positionsName,
    headSize,
  ];

  let hidden = embedding.rows;
  const presents: ExportCache[] = [];
  weights.layers.forEach((layer, index) => {
    const name = `model.layers.${index}`;
    const past: ExportCache = {
      keys: g.input(`past_key_values.${index}.key`, "float32", cacheShape("past_sequence_length")),
      values: g.input(`past_key_values.${index}.value`, "float32", cacheShape("past_sequence_length")),
    };
    const x = exportInput(g, exportNorm(g, `${name}.input_norm`, hidden, layer.inputNorm, epsilon), dtype);
    const window = config.slidingWindows[index];
    const attended = exportAttention(
      g,
      `${name}.attention`,
      x,
      layer.attention,
      past,
      positions,
      config,
      window,
      dtype,
    );
    presents.push(attended.present);
    hidden = Add(g, hidden, attended.output);
    const y = exportNorm(g, `${name}.post_attention_norm`, hidden, layer.postAttentionNorm, epsilon);
    hidden = Add(g, hidden, feedForward(g, `${name}.mlp`, y, layer.experts[0] as FeedForwardRefs, dtype));
  });

  const normed = exportNorm(g, "model.norm", hidden, weights.finalNorm, epsilon);
  const isTied = weights.head === weights.embedding;
  const logits =
    isTied && embedding.tiedLogits
      ? embedding.tiedLogits(normed)
      : exportProduct(g, "lm_head", exportInput(g, normed, dtype), weights.head, dtype);
  g.output("logits", logits, "float32", ["batch_size", "sequence_length", config.vocabSize]);
  presents.forEach(({ keys, values }, index) => {
    g.output(`present.${index}.key`, keys, "float32", cacheShape("total_sequence_length"));
    g.output(`present.${index}.value`, values, "float32", cacheShape("total_sequence_length"));
  });
  return nameOutputs(g.build());
}

function feedForward(g: GraphBuilder, name: string, rows: Value, refs: FeedForwardRefs, dtype: ExportDtype): Value {
  const x = exportInput(g, rows, dtype);
  const gate = exportLinear(g, `${name}.gate`, x, refs.gate, dtype);
  const up = exportLinear(g, `${name}.up`, x, refs.up, dtype);
  const inner = Mul(g, Mul(g, gate, Sigmoid(g, gate)), up);
  return exportLinear(g, `${name}.down`, exportInput(g, inner, dtype), refs.down, dtype);
}
