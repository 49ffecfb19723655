import type { ModelConfig } from "../config/model-config.ts";
import type { GraphBuilder, Value } from "../onnx/graph-builder.ts";
import { SimplifiedLayerNormalization, SkipSimplifiedLayerNormalization } from "../onnx/operators.ts";
import { channelScales, type ChannelScales } from "../quantize/channel-scales.ts";
import type { FeedForwardRefs, LayerRefs } from "../weights/model-weights.ts";
import type { TensorRef } from "../weights/tensor-ref.ts";
import { activation, type Arithmetic } from "./activation.ts";
import { attention, type AttentionInputs } from "./attention.ts";
import type { ExpertDeal } from "./expert-deal.ts";
import { expertFeedForward } from "./feed-forward.ts";
import { floatWeight } from "./linear.ts";

/** The residual stream; what the last block adds to it is added together with the next norm. */
export interface Stream {
  readonly residual: Value; // [tokens, hiddenSize]
  readonly update: Value | undefined; // [tokens, hiddenSize]
}

/** RMS norm of the stream's sum. @param divisors - what its channels are divided by */
export function normStream(
  g: GraphBuilder,
  name: string,
  { residual, update }: Stream,
  scale: TensorRef,
  epsilon: number,
  divisors?: ChannelScales,
): { readonly normed: Value; readonly residual: Value } {
  const scales = floatWeight(g, name, [scale], divisors);
  if (update === undefined) return { normed: SimplifiedLayerNormalization(g, residual, scales, epsilon), residual };
  const [normed, sum] = SkipSimplifiedLayerNormalization(g, residual, update, scales, epsilon);
  return { normed, residual: sum };
}

export interface LayerContext {
  readonly config: ModelConfig;
  readonly arithmetic: Arithmetic;
  readonly inputs: AttentionInputs;
  /** `undefined` with a single expert. */
  readonly deal: ExpertDeal | undefined;
}

/** One layer: attention and FFN, each behind its norm. `index` counts the layers of the graph. */
export function decoderLayer(
  g: GraphBuilder,
  name: string,
  index: number,
  layer: LayerRefs,
  stream: Stream,
  { config, arithmetic, inputs, deal }: LayerContext,
): { readonly stream: Stream; readonly newKeys: Value; readonly newValues: Value } {
  const { numHeads, numKvHeads, headSize, rmsNormEpsilon: epsilon } = config;
  const shape = {
    numHeads,
    numKvHeads,
    headSize,
    scale: 1 / Math.sqrt(headSize),
    slidingWindow: config.slidingWindows[index],
    normEpsilon: epsilon,
  };
  const { query, key, value } = layer.attention;
  const attentionScales = scalesOf(arithmetic, `${name}.attention.qkv`, [query.weight, key.weight, value.weight]);
  const x = normStream(g, `${name}.input_norm`, stream, layer.inputNorm, epsilon, attentionScales);
  const attended = attention(
    g,
    `${name}.attention`,
    index,
    activation(g, x.normed, arithmetic, attentionScales),
    layer.attention,
    shape,
    inputs,
  );
  const afterAttention = { residual: x.residual, update: attended.output };
  const ffnScales = scalesOf(arithmetic, `${name}.ffn`, gatesAndUps(layer));
  const y = normStream(g, `${name}.post_attention_norm`, afterAttention, layer.postAttentionNorm, epsilon, ffnScales);
  const update = expertFeedForward(g, `${name}.ffn`, activation(g, y.normed, arithmetic, ffnScales), layer, deal);
  return { stream: { residual: y.residual, update }, newKeys: attended.newKeys, newValues: attended.newValues };
}

function scalesOf(
  { precision, calibration }: Arithmetic,
  product: string,
  refs: readonly TensorRef[],
): ChannelScales | undefined {
  return precision === "int8" && calibration ? channelScales(calibration, product, refs) : undefined;
}

function gatesAndUps({ shared, experts }: LayerRefs): readonly TensorRef[] {
  const all: readonly FeedForwardRefs[] = shared ? [shared, ...experts] : experts;
  return all.flatMap(({ gate, up }) => [gate.weight, up.weight]);
}
