import type { ModelConfig } from "../config/model-config.ts";
import type { TensorStore } from "../tensor-store.ts";
import { feedForwardRefs, locateWeights } from "./backbone.ts";
import type { ExpertLayout, ModelWeights } from "./model-weights.ts";

/** A dense checkpoint is the case of one expert and no router. */
export function locateDense(
  store: TensorStore,
  config: ModelConfig,
): { readonly experts: ExpertLayout; readonly weights: ModelWeights } {
  const { intermediateSize, hiddenSize, hasMlpBias, numLayers } = config;
  return {
    experts: {
      names: ["dense"],
      expertSizes: Array.from({ length: numLayers }, () => intermediateSize),
      sharedSizes: Array.from({ length: numLayers }, () => 0),
    },
    weights: locateWeights(store, config, (layer) => {
      const place = { prefix: `model.layers.${layer}.mlp.` };
      return { shared: undefined, experts: [feedForwardRefs(store, place, intermediateSize, hiddenSize, hasMlpBias)] };
    }),
  };
}
