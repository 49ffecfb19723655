import {
  activation,
  attention,
  attentionGroup,
  floatWeight,
  GraphBuilder,
  linear,
  operators,
  ropeConstants,
  ROUTER_RMS_NORM_EPSILON,
  type Activation,
  type AttentionInputs,
  type Graph,
  type RouterWeights,
  type Value,
} from "@readme-moe/model";

const { Add, Concat, Gather, QuickGelu, SimplifiedLayerNormalization, Unsqueeze } = operators;

/**
 * The official router (class `cluster_predictor`, autoregressive): RMS norm, attention with unscaled scores and
 * biases, RMS norm, `contract(silu(expand(x)))`, and one linear layer to the experts' logits.
 *
 * Inputs: `token_ids`, `positions`, `group_rows` int64 `[tokens]`, `is_plain_decode` bool `[1]`, and of the groups
 * `decode`, `decode_other`, `continued` and `fresh`: see `attentionGroup`.
 * Outputs: `logits` float32 `[tokens, numExperts]`, `new_keys_values` `[tokens, 2 * numLayers * innerSize]`.
 */
export function routerGraph({ config, embedding, layers, finalNorm, head }: RouterWeights): Graph {
  const g = new GraphBuilder("router");
  const headSize = config.innerSize / config.numHeads;
  const shape = {
    numHeads: config.numHeads,
    numKvHeads: config.numHeads,
    headSize,
    scale: 1 / config.normalizer,
    slidingWindow: undefined,
    normEpsilon: ROUTER_RMS_NORM_EPSILON,
  };
  const tokenIds = g.input("token_ids", "int64", ["tokens"]);
  const positions = g.input("positions", "int64", ["tokens"]);
  const kvShape = { numLayers: config.numLayers, numKvHeads: config.numHeads, headSize };
  const inputs: AttentionInputs = {
    rope: ropeConstants(g, { type: "default", theta: config.ropeTheta }, headSize, config.contextTokens),
    positions: Unsqueeze(g, positions, [1]),
    groups: [
      attentionGroup(g, "decode", { isDecode: true, hasPast: true }, kvShape),
      attentionGroup(g, "decode_other", { isDecode: true, hasPast: true }, kvShape),
      attentionGroup(g, "continued", { isDecode: false, hasPast: true }, kvShape),
      attentionGroup(g, "fresh", { isDecode: false, hasPast: false }, kvShape),
    ],
    isPlainDecode: g.input("is_plain_decode", "bool", [1]),
    groupRows: g.input("group_rows", "int64", ["tokens"]),
  };
  const norm = (name: string, x: Value, scale: typeof finalNorm): Value =>
    SimplifiedLayerNormalization(g, x, floatWeight(g, name, [scale]), ROUTER_RMS_NORM_EPSILON);

  const float = (rows: Value): Activation => activation(g, rows, { precision: "fp32" });

  let x = Gather(g, floatWeight(g, "embedding", [embedding]), tokenIds);
  const newKeysValues: Value[] = [];
  layers.forEach((layer, index) => {
    const name = `layers.${index}`;
    const normed = norm(`${name}.input_norm`, x, layer.inputNorm);
    const refs = { ...layer, queryNorm: undefined, keyNorm: undefined };
    const attended = attention(g, `${name}.attention`, index, float(normed), refs, shape, inputs);
    newKeysValues.push(attended.newKeys, attended.newValues);
    x = Add(g, x, attended.output);
    const y = norm(`${name}.post_attention_norm`, x, layer.postAttentionNorm);
    const expanded = QuickGelu(g, linear(g, `${name}.expand`, float(y), [layer.expand]), 1);
    x = Add(g, x, linear(g, `${name}.contract`, float(expanded), [layer.contract]));
  });
  const logits = linear(g, "head", float(norm("final_norm", x, finalNorm)), [head]);
  g.output("logits", logits, "float32", ["tokens", config.numExperts]);
  g.output("new_keys_values", Concat(g, newKeysValues, 1), "float32", [
    "tokens",
    2 * config.numLayers * config.innerSize,
  ]);
  return g.build();
}
