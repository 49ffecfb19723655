// Reads the fields of config.json that describe a mixture of experts with a router in each of its layers.

import { describeValue } from "@readme-moe/core";
import type { MixtureFields } from "./family.ts";
import { type Fields, MOST } from "./fields.ts";
import type { MixtureConfig } from "./model-config.ts";

/** A config's mixture. */
export interface Mixture {
  readonly config: MixtureConfig;
  /** One per layer. */
  readonly isMixture: readonly boolean[];
}

/**
 * Reads a config's mixture. The number of experts has two spellings, which transformers takes for the same.
 *
 * @param family - how the family spells its fields; `undefined` for families without mixtures
 * @throws {ReadMeError} `ERR_MODEL_INVALID` naming the field; `ERR_MODEL_UNSUPPORTED` when no layer is a mixture
 */
export function parseMixture(
  fields: Fields,
  family: MixtureFields | undefined,
  numLayers: number,
): Mixture | undefined {
  if (family === undefined || (family.denseType && !fields.count("num_local_experts"))) return undefined;
  if (family.switchField && !fields.boolean(family.switchField, false)) return undefined;
  const countField = family.countField ?? (fields.has("num_experts") ? "num_experts" : "num_local_experts");
  const numExperts = fields.size(countField, MOST.experts);
  const chosenField = family.chosenField ?? "num_experts_per_tok";
  const expertsPerToken = fields.size(chosenField, MOST.expertsPerToken);
  if (numLayers * numExperts > MOST.expertsOfLayers) {
    fields.unsupported(countField, `supported are up to ${MOST.expertsOfLayers} in the ${numLayers} layers together`);
  }
  if (expertsPerToken > numExperts) {
    throw fields.invalid(`\`${chosenField}\` ${expertsPerToken} is more than the ${numExperts} experts of a layer`);
  }
  const { normalizesWeights, sharedSize, sharedExperts } = family;
  const expertSize = fields.size(family.expertSize, MOST.width);
  const isMixture = mixtureLayers(fields, family, numLayers);
  if (!isMixture.includes(true)) {
    fields.unsupported("decoder_sparse_step", "supported are models in which a layer has experts");
  }
  return {
    config: {
      numExperts,
      expertsPerToken,
      expertSize,
      normalizesWeights: normalizesWeights === true || fields.boolean(normalizesWeights, false),
      sharedSize: sharedSize
        ? fields.size(sharedSize, MOST.width)
        : sharedExperts
          ? expertSize * (fields.count(sharedExperts) ?? 0)
          : 0,
      weightScale: family.scalesWeights ? fields.positive("routed_scaling_factor", 1) : undefined,
      hasBiases: family.hasBiases,
      hasOwnNorms: family.hasOwnNorms,
      sigmoids: family.hasSigmoids ? { hasBiases: fields.boolean("use_expert_bias", true) } : undefined,
    },
    isMixture,
  };
}

/** Finds the layers with experts: every `decoder_sparse_step`-th one that `mlp_only_layers` does not name. */
function mixtureLayers(
  fields: Fields,
  { hasDenseLayers, denseLayers }: MixtureFields,
  numLayers: number,
): readonly boolean[] {
  const types = fields.list("mlp_layer_types");
  if (denseLayers !== undefined && types?.length === numLayers) return types.map((type) => type === "sparse");
  const numDense = denseLayers === undefined ? 0 : (fields.count(denseLayers) ?? 0);
  if (numDense > 0) return Array.from({ length: numLayers }, (_, layer) => layer >= numDense);
  if (!hasDenseLayers) return Array.from({ length: numLayers }, () => true);
  const step = fields.size("decoder_sparse_step", MOST.integer, 1);
  const dense = fields.list("mlp_only_layers") ?? [];
  if (!dense.every((layer) => typeof layer === "number" && Number.isInteger(layer) && layer >= 0)) {
    throw fields.invalid(`expected \`mlp_only_layers\` to be a list of layers, got ${describeValue(dense)}`);
  }
  const isDense = new Set(dense);
  return Array.from({ length: numLayers }, (_, layer) => (layer + 1) % step === 0 && !isDense.has(layer));
}
