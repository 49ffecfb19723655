import { attentionInputs } from "../blocks/attention-inputs.ts";
import { decoderLayer } from "../blocks/decoder-layer.ts";
import { expertDealInputs } from "../blocks/expert-deal.ts";
import type { ModelConfig } from "../config/model-config.ts";
import type { Model } from "../folder/model.ts";
import { GraphBuilder, type Graph, type Value } from "../onnx/graph-builder.ts";
import { Abs, Add, Mul, ReduceMax, ReduceSum } from "../onnx/operators.ts";
import type { LayerRefs } from "../weights/model-weights.ts";

/** What is taken down of a product's input. */
export type Statistic = "maxima" | "squares";

/** A model's config with layer `index` for its only one. */
export function configOfLayer(config: ModelConfig, index: number): ModelConfig {
  return configOfLayers(config, index, index + 1);
}

/** A model's config with layers `[from, to)` for its only ones. */
export function configOfLayers(config: ModelConfig, from: number, to: number): ModelConfig {
  return { ...config, numLayers: to - from, slidingWindows: config.slidingWindows.slice(from, to) };
}

/**
 * One layer in float32, with statistics of what its products take in.
 *
 * Inputs: `hidden` float32 `[tokens, hiddenSize]`, and what attention and experts take in the decoder graph. Outputs:
 * `next_hidden` like `hidden`; per product `max.<product>` or `squares.<product>` `[in]`.
 *
 * @param config - see `configOfLayer`
 */
export function layerGraph(
  name: string,
  layer: LayerRefs,
  config: ModelConfig,
  { names }: Model["experts"],
  statistic: Statistic,
): Graph {
  const g = new GraphBuilder(name);
  const hidden = g.input("hidden", "float32", ["tokens", config.hiddenSize]);
  const inputs = attentionInputs(g, config.rope, config);
  const observed = new Map<string, Value>();
  const observe = (product: string, rows: Value): void => void observed.set(product, rows);
  // What an expert takes in can only be taken down outside of branches.
  const deal = expertDealInputs(g, names.length, { skipsIdle: false });
  const context = { config, arithmetic: { precision: "fp32", observe }, inputs, deal } as const;
  const stream = { residual: hidden, update: undefined };
  const output = decoderLayer(g, name, 0, layer, stream, context).stream;
  g.output("next_hidden", Add(g, output.residual, output.update as Value), "float32", ["tokens", config.hiddenSize]);
  for (const [product, rows] of observed) {
    const size = `${product}.in`;
    if (statistic === "squares") {
      g.output(`squares.${product}`, ReduceSum(g, Mul(g, rows, rows), 0), "float32", [size]);
    } else if (isBehindNorm(product)) {
      g.output(`max.${product}`, ReduceMax(g, Abs(g, rows), 0), "float32", [1, size]);
    }
  }
  return g.build();
}

/** Maxima are wanted only where a norm can change them. */
function isBehindNorm(product: string): boolean {
  return product.endsWith(".qkv") || product.endsWith(".ffn");
}
