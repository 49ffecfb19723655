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
  channelScalesOf,
  type Arithmetic,
  type ChannelScales,
  GraphBuilder,
  operators,
  storedBlocks,
  type Graph,
  type Model,
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
  { config, experts, weights }: DecoderSource,
  arithmetic: Arithmetic = { precision: "fp32" },
): Graph {
  const g = new GraphBuilder("decoder");
  const inputs = attentionInputs(g, config.rope, config);
  const deal = expertDealInputs(g, experts.names.length, { skipsIdle: true });
  // In float32 a tied head is the embedding table itself; products of integers need another layout.
  const table = arithmetic.precision === "fp32" ? floatWeight(g, "embedding", [weights.embedding]) : undefined;
  let stream = embedded(g, weights, table);
  const newKeysValues: Value[] = [];
  for (const [index, layer] of weights.layers.entries()) {
    const output = decoderLayer(g, `layers.${index}`, index, layer, stream, { config, arithmetic, inputs, deal });
    newKeysValues.push(output.newKeys, output.newValues);
    stream = output.stream;
  }
  logitsOf(g, stream, { config, weights }, arithmetic, table);
  g.output("new_keys_values", Concat(g, newKeysValues, 1), "float32", [
    "tokens",
    2 * config.numLayers * config.numKvHeads * config.headSize,
  ]);
  return g.build();
}

export type DecoderSource = Pick<Model, "config" | "experts" | "weights">;

function embedded(g: GraphBuilder, weights: Model["weights"], table: Value | undefined): Stream {
  const tokenIds = g.input("token_ids", "int64", ["tokens"]);
  const rows = table ? Gather(g, table, tokenIds) : embedFromHalves(g, tokenIds, weights.embedding);
  return { residual: rows, update: undefined };
}

/** Norms work row by row, so the rows that nobody asks for are dropped before the last one. */
function logitsOf(
  g: GraphBuilder,
  { residual, update }: Stream,
  { config, weights }: Pick<Model, "config" | "weights">,
  arithmetic: Arithmetic,
  table: Value | undefined,
): void {
  const logitRows = g.input("logit_rows", "int64", ["rows"]);
  const wanted = { residual: Gather(g, residual, logitRows), update: update && Gather(g, update, logitRows) };
  const scales = channelScalesOf(arithmetic, "head", [weights.head]);
  const { normed } = normStream(g, "final_norm", wanted, weights.finalNorm, config.rmsNormEpsilon, scales);
  logitOutputs(g, headLogits(g, normed, weights, arithmetic, scales, table), config.vocabSize);
}

/** Rows of an embedding table that is kept in half precision, as float32. */
function embedFromHalves(g: GraphBuilder, tokenIds: Value, table: TensorRef): Value {
  const halves = g.weight("embedding", "float16", table.shape, async () =>
    encodeF16(await table.store.readFloats(table.name)),
  );
  return Cast(g, Gather(g, halves, tokenIds), "float32");
}

/** Logits `[rows, vocabSize]`. @param table - the embedding table in float32, where the graph has it */
function headLogits(
  g: GraphBuilder,
  hidden: Value,
  { head, embedding }: Model["weights"],
  arithmetic: Arithmetic,
  scales: ChannelScales | undefined,
  table: Value | undefined,
): Value {
  if (table && head === embedding) return operators.Gemm(g, hidden, table, undefined);
  const blocks = arithmetic.precision === "int4" ? (storedBlocks(head) ?? eightBitBlocks(head)) : undefined;
  if (blocks) return blockLinear(g, "head", hidden, [blocks]);
  const own = { ...arithmetic, precision: arithmetic.precision === "fp32" ? "fp32" : "int8" } as const;
  return linear(g, "head", activation(g, hidden, own, scales), [{ weight: head, bias: undefined }]);
}
