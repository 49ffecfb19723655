import type { Activation, LayerRefs, Model, ModelConfig } from "@readme-moe/model";
import {
  attentionHalf,
  attentionWeights,
  feedForwardHalf,
  feedForwardNorms,
  feedForwardWeights,
  type LayerOperations,
  type NamedWeights,
} from "../decoder/layer.ts";
import { type Graph, GraphBuilder, type Value } from "../graph/graph-builder.ts";
import { nameOutputs } from "../graph/name-outputs.ts";
import { Add, Mul, Pow, Reshape, Sigmoid, Tanh } from "../graph/operators.ts";
import { exportAttention, type ExportCache, exportPositions, type ExportRows } from "./export-attention.ts";
import { type ExportDtype, ExportWeights } from "./export-weights.ts";

/**
 * Writes a dense model as the graph that transformers.js runs, like an export from PyTorch. Our engine does not run it:
 * the past is copied at every step, and padding is computed.
 *
 * Inputs: `input_ids`, `position_ids` int64 `[batch, sequence]`, `attention_mask` int64 `[batch, past + sequence]` (0
 * for padding), `past_key_values.{layer}.key` and `.value` float32 `[batch, numKvHeads, past, headSize]`.
 *
 * Outputs: `logits` float32 `[batch, sequence, vocabSize]`, `present.{layer}.key` and `.value`, grown by `sequence`.
 */
export function exportGraph({ config, weights }: Pick<Model, "config" | "weights">, dtype: ExportDtype): Graph {
  const g = new GraphBuilder("main_graph");
  const writer = new ExportWeights(g, dtype, config);
  const tokenIds = g.input("input_ids", "int64", ["batch_size", "sequence_length"]);
  const attentionMask = g.input("attention_mask", "int64", ["batch_size", "total_sequence_length"]);
  const positionIds = g.input("position_ids", "int64", ["batch_size", "sequence_length"]);
  const positions = exportPositions(g, config, { tokenIds, attentionMask, positions: positionIds });
  const embedding = writer.embedding("model.embed_tokens.weight", tokenIds, weights.embedding);
  const scaled = (x: Value, factor: number): Value => (factor === 1 ? x : Mul(g, x, g.float(factor)));
  const cacheShape = (positionsName: string): readonly (string | number)[] => [
    "batch_size",
    config.numKvHeads,
    positionsName,
    config.headSize,
  ];

  let hidden = scaled(embedding.rows, config.embeddingScale);
  const presents: ExportCache[] = [];
  weights.layers.forEach((layer, index) => {
    const name = `model.layers.${index}`;
    const past: ExportCache = {
      keys: g.input(`past_key_values.${index}.key`, "float32", cacheShape("past_sequence_length")),
      values: g.input(`past_key_values.${index}.value`, "float32", cacheShape("past_sequence_length")),
    };
    const attend = (rows: ExportRows): Value => {
      const { attended, present } = exportAttention(g, rows, { config, layer: index, positions, past });
      presents.push(present);
      return attended;
    };
    const operations = (prefix: string, half: NamedWeights): LayerOperations<Value> =>
      exportOperations(g, writer, { prefix, weights: half, config, attend });
    hidden = attentionHalf(operations(`${name}.attention`, attentionWeights(layer)), config, hidden);
    hidden = feedForwardHalf(operations(`${name}.mlp`, denseWeights(layer)), config, hidden, ["ffn"]);
  });

  const normed = writer.norm("model.norm", hidden, weights.finalNorm);
  const isTied = weights.head === weights.embedding;
  const logits =
    isTied && embedding.tiedLogits ? embedding.tiedLogits(normed) : writer.product("lm_head", normed, weights.head);
  const logitsShape = ["batch_size", "sequence_length", config.vocabSize];
  g.output("logits", scaled(logits, config.logitScale), "float32", logitsShape);
  presents.forEach(({ keys, values }, index) => {
    g.output(`present.${index}.key`, keys, "float32", cacheShape("total_sequence_length"));
    g.output(`present.${index}.value`, values, "float32", cacheShape("total_sequence_length"));
  });
  return nameOutputs(g.build());
}

function denseWeights(layer: LayerRefs): NamedWeights {
  const [ffn] = layer.experts;
  if (!ffn) throw new TypeError("Expected a dense layer");
  return new Map([...feedForwardNorms(layer), ...feedForwardWeights("ffn", ffn)]);
}

interface ExportHalf {
  /** Prefix of the names of constants. */
  readonly prefix: string;
  readonly weights: NamedWeights;
  readonly config: ModelConfig;
  readonly attend: (rows: ExportRows) => Value;
}

/** `activation(gate) · up` by activation. */
const GATES: Readonly<Record<Activation, (g: GraphBuilder, gate: Value, up: Value) => Value>> = {
  silu: (g, gate, up) => Mul(g, Mul(g, gate, Sigmoid(g, gate)), up),
  "gelu-tanh": (g, gate, up) => Mul(g, geluTanh(g, gate), up),
};

/** GELU's approximation by tanh; the operator `Gelu` is newer than the exported operator set. */
function geluTanh(g: GraphBuilder, x: Value): Value {
  const cubic = Mul(g, Pow(g, x, g.float(3)), g.float(0.044715));
  const turned = Tanh(g, Mul(g, Add(g, x, cubic), g.float(Math.sqrt(2 / Math.PI))));
  return Mul(g, Mul(g, x, g.float(0.5)), Add(g, turned, g.float(1)));
}

/** Makes the operations of one half of a layer, in operators of the specification. */
function exportOperations(
  g: GraphBuilder,
  writer: ExportWeights,
  { prefix, weights, config, attend }: ExportHalf,
): LayerOperations<Value> {
  const find = (name: string) => {
    const ref = weights.get(name);
    if (!ref) throw new TypeError(`Expected a weight \`${name}\` in ${prefix}`);
    return ref;
  };
  return {
    has: (name) => weights.has(name),
    linear: (name, x) => {
      const refs = { weight: find(`${name}.weight`), bias: weights.get(`${name}.bias`) };
      return writer.linear(`${prefix}.${name}`, x, refs);
    },
    norm: (name, x, over) => {
      const scale = find(name);
      if (over === "row") return writer.norm(`${prefix}.${name}`, x, scale);
      const normed = writer.norm(`${prefix}.${name}`, Reshape(g, x, [0, 0, -1, config.headSize]), scale);
      return Reshape(g, normed, [0, 0, -1]);
    },
    attend: (queries, keys, values) => attend({ queries, keys, values }),
    gate: (gate, up) => GATES[config.activation](g, gate, up),
    add: (a, b) => Add(g, a, b),
    scale: (x, factor) => Mul(g, x, g.float(factor)),
  };
}
