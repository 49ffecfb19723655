import {
  activation,
  attentionInputs,
  blockLinear,
  decoderLayer,
  eightBitBlocks,
  encodeF16,
  expertDealInputs,
  floatWeight,
  linear,
  logitOutputs,
  normStream,
  type Calibration,
  GraphBuilder,
  operators,
  storedBlocks,
  type Graph,
  type Model,
  type Precision,
  type Stream,
  type TensorRef,
  type Value,
} from "@readme-moe/model";

const { Cast, Concat, Gather } = operators;

/**
 * The whole model as one graph: one run is one step over a flat list of tokens, of sequences that decode and of
 * chunks of prefill together. All experts are in it ("resident").
 *
 * Inputs:
 * - `token_ids` int64 `[tokens]`; see `attentionInputs` and, with several experts, `expertDealInputs`
 * - `logit_rows` int64 `[rows]`: the tokens whose logits are wanted, at least one; and see `logitOutputs`
 *
 * Outputs: `new_keys_values` float32 `[tokens, 2 * numLayers * numKvHeads * headSize]`, of each token the keys of layer 0,
 * the values of layer 0, the keys of layer 1 …: what the caller appends to its cache; and see `logitOutputs`.
 */
export function decoderGraph(
  { config, experts, weights }: Pick<Model, "config" | "experts" | "weights">,
  precision: Precision = "fp32",
  calibration?: Calibration,
): Graph {
  const g = new GraphBuilder("decoder");
  const { numLayers, numKvHeads, headSize } = config;
  const tokenIds = g.input("token_ids", "int64", ["tokens"]);
  const inputs = attentionInputs(g, config.rope, config);
  const deal = expertDealInputs(g, experts.names.length, { skipsIdle: true });

  // In float32 a tied head is the embedding table itself; products of integers need another layout.
  const table = precision === "fp32" ? floatWeight(g, "embedding", [weights.embedding]) : undefined;
  const embedded = table ? Gather(g, table, tokenIds) : embedFromHalves(g, tokenIds, weights.embedding);
  let stream: Stream = { residual: embedded, update: undefined };
  const newKeysValues: Value[] = [];
  weights.layers.forEach((layer, index) => {
    const context = { config, arithmetic: { precision, calibration }, inputs, deal };
    const output = decoderLayer(g, `layers.${index}`, index, layer, stream, context);
    newKeysValues.push(output.newKeys, output.newValues);
    stream = output.stream;
  });

  // Norms work row by row, so the rows that nobody asks for are dropped before the last one.
  const logitRows = g.input("logit_rows", "int64", ["rows"]);
  const wanted: Stream = {
    residual: Gather(g, stream.residual, logitRows),
    update: stream.update && Gather(g, stream.update, logitRows),
  };
  const { normed } = normStream(g, "final_norm", wanted, weights.finalNorm, config.rmsNormEpsilon);
  logitOutputs(g, headLogits(g, normed, weights, table), config.vocabSize);
  g.output("new_keys_values", Concat(g, newKeysValues, 1), "float32", [
    "tokens",
    2 * numLayers * numKvHeads * headSize,
  ]);
  return g.build();
}

/** Rows of an embedding table that is kept in half precision, as float32. */
export function embedFromHalves(g: GraphBuilder, tokenIds: Value, table: TensorRef): Value {
  const halves = g.weight("embedding", "float16", table.shape, async () =>
    encodeF16(await table.store.readFloats(table.name)),
  );
  return Cast(g, Gather(g, halves, tokenIds), "float32");
}

/** Logits `[rows, vocabSize]`. @param table - the embedding table in float32, where the graph has it */
export function headLogits(
  g: GraphBuilder,
  hidden: Value,
  { head, embedding }: Model["weights"],
  table: Value | undefined,
): Value {
  if (table && head === embedding) return operators.Gemm(g, hidden, table, undefined);
  const blocks = table ? undefined : (storedBlocks(head) ?? eightBitBlocks(head));
  if (blocks) return blockLinear(g, "head", hidden, [blocks]);
  return linear(g, "head", activation(g, hidden, { precision: table ? "fp32" : "int8" }), [
    { weight: head, bias: undefined },
  ]);
}
