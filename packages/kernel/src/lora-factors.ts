// Factors of inputs and outputs that packed products have, which loras of them must have too.

import type { InputStatistics, LoraProduct, ModelWeights, Precision } from "@readme-moe/model";
import { inputFactors, type InputFactors } from "./pack/pack-product.ts";

/** Factors of the inputs of one layer's products; `undefined` where inputs are as the model has them. */
export interface LayerFactors {
  /** Inputs of query, key and value. */
  readonly attends: InputFactors | undefined;
  /** Inputs of gate and up of each part of the FFN. */
  readonly feeds: InputFactors | undefined;
  /** Inputs of `down` of one part of the FFN, by which the outputs of `up` are multiplied. */
  readonly gated: (part: string) => InputFactors | undefined;
}

/** Finds the factors with which `describeModel` packs a layer. */
export function layerFactors(
  { layers }: Pick<ModelWeights, "layers">,
  index: number,
  precision: Precision,
  calibration: InputStatistics | undefined,
): LayerFactors {
  const factorsOf = (name: string): InputFactors | undefined =>
    precision === "int8" && calibration ? inputFactors(calibration, name) : undefined;
  const { attentionNorm, ffnNorm } = layers[index]!;
  // Factors of inputs are folded into the norm in front of the products, if there is one.
  return {
    attends: attentionNorm && factorsOf(`layers.${index}.attention.qkv`),
    feeds: ffnNorm && factorsOf(`layers.${index}.ffn`),
    gated: (part) => factorsOf(`${part}.down`),
  };
}

/** Finds the factors of one product of a layer, for `packLora`. */
export type LoraFactors = (
  layer: number,
  product: LoraProduct,
) => { readonly inputs?: InputFactors | undefined; readonly outputs?: InputFactors | undefined };

/** Finds the factors of a dense model's products; arguments as for `describeModel`. */
export function loraFactors(
  weights: Pick<ModelWeights, "layers">,
  precision: Precision,
  calibration?: InputStatistics,
): LoraFactors {
  return (layer, product) => {
    const { attends, feeds, gated } = layerFactors(weights, layer, precision, calibration);
    const own = gated(`layers.${layer}.ffn`);
    switch (product) {
      case "query":
      case "key":
      case "value":
        return { inputs: attends };
      case "attentionOutput":
        return {};
      case "gate":
        return { inputs: feeds };
      case "up":
        return { inputs: feeds, outputs: own };
      case "down":
        return { inputs: own };
      default:
        throw new TypeError(`Unknown product: ${String(product satisfies never)}`);
    }
  };
}
