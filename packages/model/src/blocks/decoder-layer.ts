import type { ModelConfig } from "../config/model-config.ts";
import type { GraphBuilder, Value } from "../onnx/graph-builder.ts";
import { SimplifiedLayerNormalization, SkipSimplifiedLayerNormalization } from "../onnx/operators.ts";
import { channelScales, type ChannelScales } from "../quantize/channel-scales.ts";
import type { FeedForwardRefs, LayerRefs } from "../weights/model-weights.ts";
import type { TensorRef } from "../weights/tensor-ref.ts";
import { activation, type Activation, type Arithmetic } from "./activation.ts";
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

/** A layer up to its FFN. */
interface AttendedLayer {
  readonly residual: Value; // [tokens, hiddenSize], attention's update included
  /** What the FFN takes in. */
  readonly ffnInput: Activation;
  readonly newKeys: Value;
  readonly newValues: Value;
}

/** One layer: attention and FFN, each behind its norm. `index` counts the layers of the graph. */
export function decoderLayer(
  g: GraphBuilder,
  name: string,
  index: number,
  layer: LayerRefs,
  stream: Stream,
  context: LayerContext,
): { readonly stream: Stream; readonly newKeys: Value; readonly newValues: Value } {
  const { residual, ffnInput, newKeys, newValues } = attendedLayer(g, name, index, layer, stream, context);
  const update = expertFeedForward(g, `${name}.ffn`, ffnInput, layer, context.deal);
  return { stream: { residual, update }, newKeys, newValues };
}

/** A layer's attention, and the norm behind it. */
function attendedLayer(
  g: GraphBuilder,
  name: string,
  index: number,
  layer: LayerRefs,
  stream: Stream,
  { config, arithmetic, inputs }: Omit<LayerContext, "deal">,
): AttendedLayer {
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
  const attentionScales = channelScalesOf(arithmetic, `${name}.attention.qkv`, [
    query.weight,
    key.weight,
    value.weight,
  ]);
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
  const ffnScales = ffnChannelScales(arithmetic, name, layer);
  const y = normStream(g, `${name}.post_attention_norm`, afterAttention, layer.postAttentionNorm, epsilon, ffnScales);
  const ffnInput = activation(g, y.normed, arithmetic, ffnScales);
  return { residual: y.residual, ffnInput, newKeys: attended.newKeys, newValues: attended.newValues };
}

/** What a layer's FFN input is divided by, the same for all its experts. */
function ffnChannelScales(arithmetic: Arithmetic, name: string, layer: LayerRefs): ChannelScales | undefined {
  return channelScalesOf(arithmetic, `${name}.ffn`, gatesAndUps(layer));
}

/** What a product's input is divided by, channel by channel, where that is worth it. @param refs - all weights that take it */
export function channelScalesOf(
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
