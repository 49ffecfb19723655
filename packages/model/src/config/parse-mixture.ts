// Reads the fields of config.json that describe a mixture of experts with a router in each of its layers.

import { describeValue } from "@readme-moe/core";
import type { MixtureFields } from "./family.ts";
import type { Fields } from "./fields.ts";
import type { MixtureConfig } from "./model-config.ts";
import { MOST } from "./bounds.ts";

/** A mixture, and which layers are one. */
interface Mixture {
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
  if (family === undefined) return undefined;
  const countField = fields.has("num_experts") ? "num_experts" : "num_local_experts";
  const numExperts = fields.size(countField, MOST.experts);
  const expertsPerToken = fields.size("num_experts_per_tok", MOST.expertsPerToken);
  if (numLayers * numExperts > MOST.expertsOfLayers) {
    fields.unsupported(countField, `supported are up to ${MOST.expertsOfLayers} in the ${numLayers} layers together`);
  }
  if (expertsPerToken > numExperts) {
    throw fields.invalid(
      `\`num_experts_per_tok\` ${expertsPerToken} is more than the ${numExperts} experts of a layer`,
    );
  }
  const { normalizesWeights } = family;
  const isMixture = mixtureLayers(fields, family, numLayers);
  if (!isMixture.includes(true)) {
    fields.unsupported("decoder_sparse_step", "supported are models in which a layer has experts");
  }
  return {
    config: {
      numExperts,
      expertsPerToken,
      expertSize: fields.size(family.expertSize, MOST.width),
      normalizesWeights: normalizesWeights === true || fields.boolean(normalizesWeights, false),
    },
    isMixture,
  };
}

/** Finds the layers with experts: every `decoder_sparse_step`-th one that `mlp_only_layers` does not name. */
function mixtureLayers(fields: Fields, { hasDenseLayers }: MixtureFields, numLayers: number): readonly boolean[] {
  if (!hasDenseLayers) return Array.from({ length: numLayers }, () => true);
  const step = fields.size("decoder_sparse_step", MOST.integer, 1);
  const dense = fields.list("mlp_only_layers") ?? [];
  if (!dense.every((layer) => typeof layer === "number" && Number.isInteger(layer) && layer >= 0)) {
    throw fields.invalid(`expected \`mlp_only_layers\` to be a list of layers, got ${describeValue(dense)}`);
  }
  const isDense = new Set(dense);
  return Array.from({ length: numLayers }, (_, layer) => (layer + 1) % step === 0 && !isDense.has(layer));
}
