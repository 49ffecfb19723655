import type { Model, ModelConfig, ModelWeights } from "@readme-moe/model";
import type { DenseDown } from "../experts/layer-experts.ts";
import { matrix } from "../linear-algebra/matrix.ts";

type LayerRefs = ModelWeights["layers"][number];

/** One layer of a dense model. */
export interface LayerSource {
  readonly index: number;
  /** With this layer for its only one. */
  readonly config: ModelConfig;
  readonly refs: LayerRefs;
  readonly ffn: LayerRefs["experts"][number];
}

export function layerSource({ config, weights }: Pick<Model, "config" | "weights">, index: number): LayerSource {
  const refs = weights.layers[index] as LayerRefs;
  return { index, config: configOfLayer(config, index), refs, ffn: refs.experts[0] as LayerSource["ffn"] };
}

/** A model's config with layer `index` for its only one. */
function configOfLayer(config: ModelConfig, index: number): ModelConfig {
  return { ...config, numLayers: 1, slidingWindows: config.slidingWindows.slice(index, index + 1) };
}

export async function readDense({ ffn: { down } }: LayerSource): Promise<DenseDown> {
  const { store, name, shape } = down.weight;
  const [rows = 0, columns = 0] = shape;
  const bias = down.bias && (await down.bias.store.readFloats(down.bias.name));
  return { weight: matrix(rows, columns, await store.readFloats(name)), bias };
}
