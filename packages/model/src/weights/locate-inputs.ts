// Inputs that layers have beside the residual stream, and factors of it (Gemma 4).

import type { ModelConfig } from "../config/model-config.ts";
import type { TensorStore } from "../tensor-store.ts";
import { type LayerInputsRefs, type LayerRefs, linearRefs, tensorRef, type TensorRef } from "./model-weights.ts";

/** Finds what the inputs of all layers are made of. */
export function locateLayerInputs(store: TensorStore, config: ModelConfig): LayerInputsRefs | undefined {
  const { layerInputSize: size = 0, numLayers, vocabSize, hiddenSize } = config;
  if (size === 0) return undefined;
  const shape = { outSize: numLayers * size, inSize: hiddenSize, hasBias: false };
  return {
    table: tensorRef(store, "model.embed_tokens_per_layer.weight", [vocabSize, numLayers * size]),
    projection: linearRefs(store, "model.per_layer_model_projection", shape),
    norm: tensorRef(store, "model.per_layer_projection_norm.weight", [size]),
  };
}

/** Finds what a layer makes of its inputs, and its factor of the stream. */
export function locateInput(
  store: TensorStore,
  { layerInputSize = 0, hiddenSize, normsValues }: ModelConfig,
  layer: number,
): Pick<LayerRefs, "input" | "streamScale"> {
  const prefix = `model.layers.${layer}.`;
  const streamScale = normsValues ? scaleOf(store, `${prefix}layer_scalar`) : undefined;
  if (layerInputSize === 0) return { streamScale };
  const [gate, output] = [`${prefix}per_layer_input_gate`, `${prefix}per_layer_projection`];
  return {
    input: {
      gate: linearRefs(store, gate, { outSize: layerInputSize, inSize: hiddenSize, hasBias: false }),
      output: linearRefs(store, output, { outSize: hiddenSize, inSize: layerInputSize, hasBias: false }),
      outputNorm: tensorRef(store, `${prefix}post_per_layer_input_norm.weight`, [hiddenSize]),
    },
    streamScale,
  };
}

/** Finds a factor; GGUF files name it as a weight. */
function scaleOf(store: TensorStore, name: string): TensorRef {
  return tensorRef(store, store.has(name) ? name : `${name}.weight`, [1]);
}
