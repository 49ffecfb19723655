import {
  activation,
  attention,
  attentionInputs,
  floatWeight,
  GraphBuilder,
  linear,
  operators,
  ROUTER_RMS_NORM_EPSILON,
  type Activation,
  type Graph,
  type RouterWeights,
  type Value,
} from "@readme-moe/model";

const { Add, Concat, Gather, QuickGelu, SimplifiedLayerNormalization } = operators;

/**
 * The official router (class `cluster_predictor`, autoregressive): RMS norm, attention with unscaled scores and
 * biases, RMS norm, `contract(silu(expand(x)))`, and one linear layer to the experts' logits.
 *
 * Inputs: `token_ids` int64 `[tokens]`, and see `attentionInputs`.
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
  const kvShape = { numLayers: config.numLayers, numKvHeads: config.numHeads, headSize };
  const rope = { type: "default", theta: config.ropeTheta } as const;
  const inputs = attentionInputs(g, rope, { ...kvShape, contextTokens: config.contextTokens });
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
