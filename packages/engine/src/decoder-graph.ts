import {
  activation,
  attention,
  attentionGroup,
  blockwiseLinear,
  encodeF16,
  expertFeedForward,
  floatWeight,
  linear,
  logitOutputs,
  ropeConstants,
  type AttentionInputs,
  type ExpertDeal,
  GraphBuilder,
  operators,
  type Graph,
  type Model,
  type Precision,
  type TensorRef,
  type Value,
} from "@readme-moe/model";

const { Cast, Concat, Gather, SimplifiedLayerNormalization, SkipSimplifiedLayerNormalization, Unsqueeze } = operators;

/**
 * The whole model as one graph: one run is one step over a flat list of tokens, of sequences that decode and of
 * chunks of prefill together. All experts are in it ("resident").
 *
 * Inputs:
 * - `token_ids`, `positions` int64 `[tokens]`
 * - of the groups `decode`, `continued` and `fresh`: see `attentionGroup`
 * - `is_plain_decode` bool `[1]`: see `AttentionInputs`
 * - `group_rows` int64 `[tokens]`: row of each token in the groups' rows, laid end to end
 * - with several experts, `permutation`, `inverse` int64 `[tokens]` and `expert_counts` int64 `[numExperts]`
 * - `logit_rows` int64 `[rows]`: the tokens whose logits are wanted, at least one; and see `logitOutputs`
 *
 * Outputs: `new_keys_values` float32 `[tokens, 2 * numLayers * numKvHeads * headSize]`, of each token the keys of layer 0,
 * the values of layer 0, the keys of layer 1 …: what the caller appends to its cache; and see `logitOutputs`.
 */
export function decoderGraph(
  { config, experts, weights }: Pick<Model, "config" | "experts" | "weights">,
  precision: Precision = "fp32",
): Graph {
  const g = new GraphBuilder("decoder");
  const { numLayers, numHeads, numKvHeads, headSize, rmsNormEpsilon: epsilon } = config;
  const tokenIds = g.input("token_ids", "int64", ["tokens"]);
  const positions = g.input("positions", "int64", ["tokens"]);
  const inputs: AttentionInputs = {
    rope: ropeConstants(g, config.rope, headSize, config.contextTokens),
    positions: Unsqueeze(g, positions, [1]),
    groups: [
      attentionGroup(g, "decode", { isDecode: true, hasPast: true }, config),
      attentionGroup(g, "continued", { isDecode: false, hasPast: true }, config),
      attentionGroup(g, "fresh", { isDecode: false, hasPast: false }, config),
    ],
    isPlainDecode: g.input("is_plain_decode", "bool", [1]),
    groupRows: g.input("group_rows", "int64", ["tokens"]),
  };
  const deal: ExpertDeal | undefined =
    experts.names.length === 1
      ? undefined
      : {
          permutation: g.input("permutation", "int64", ["tokens"]),
          inverse: g.input("inverse", "int64", ["tokens"]),
          counts: g.input("expert_counts", "int64", [experts.names.length]),
        };

  // In float32 a tied head is the embedding table itself; products of integers need another layout.
  const table = precision === "fp32" ? floatWeight(g, "embedding", [weights.embedding]) : undefined;
  let residual = table ? Gather(g, table, tokenIds) : embedFromHalves(g, tokenIds, weights.embedding);
  let update: Value | undefined;
  /** The norm of `residual + update`; the sum becomes the residual stream. */
  const norm = (name: string, scale: (typeof weights)["finalNorm"]): Value => {
    const scales = floatWeight(g, name, [scale]);
    if (update === undefined) return SimplifiedLayerNormalization(g, residual, scales, epsilon);
    const [normed, sum] = SkipSimplifiedLayerNormalization(g, residual, update, scales, epsilon);
    residual = sum;
    return normed;
  };

  const newKeysValues: Value[] = [];
  weights.layers.forEach((layer, index) => {
    const name = `layers.${index}`;
    const shape = {
      numHeads,
      numKvHeads,
      headSize,
      scale: 1 / Math.sqrt(headSize),
      slidingWindow: config.slidingWindows[index],
      normEpsilon: epsilon,
    };
    const x = norm(`${name}.input_norm`, layer.inputNorm);
    const attended = attention(
      g,
      `${name}.attention`,
      index,
      activation(g, x, precision),
      layer.attention,
      shape,
      inputs,
    );
    newKeysValues.push(attended.newKeys, attended.newValues);
    update = attended.output;
    const y = norm(`${name}.post_attention_norm`, layer.postAttentionNorm);
    update = expertFeedForward(g, `${name}.ffn`, activation(g, y, precision), layer, deal);
  });

  // Norms work row by row, so the rows that nobody asks for are dropped before the last one.
  const logitRows = g.input("logit_rows", "int64", ["rows"]);
  residual = Gather(g, residual, logitRows);
  if (update !== undefined) update = Gather(g, update, logitRows);
  const hidden = norm("final_norm", weights.finalNorm);
  logitOutputs(g, headLogits(g, hidden, weights, table), config.vocabSize);
  g.output("new_keys_values", Concat(g, newKeysValues, 1), "float32", [
    "tokens",
    2 * numLayers * numKvHeads * headSize,
  ]);
  return g.build();
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
  table: Value | undefined,
): Value {
  if (table && head === embedding) return operators.Gemm(g, hidden, table, undefined);
  const inBlocks = table ? undefined : blockwiseLinear(g, "head", hidden, head);
  return (
    inBlocks ?? linear(g, "head", activation(g, hidden, table ? "fp32" : "int8"), [{ weight: head, bias: undefined }])
  );
}
