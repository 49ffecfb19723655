// Latent attention: how configs spell its sizes, and the families that have it.

import { type Family, type MixtureFields, NORMS_BEFORE } from "./family.ts";
import { type Fields, MOST } from "./fields.ts";
import { type LatentConfig, type RopeConfig, yarnGrowth } from "./model-config.ts";

/** Reads the sizes of latent attention, of which the kernel has whole vectors. */
export function parseLatent(fields: Fields): LatentConfig {
  const vectors = (name: string): number => {
    const size = fields.size(name, MOST.headSize);
    return size % 16 === 0 ? size : fields.unsupported(name, "supported are multiples of 16");
  };
  const rank = fields.count("q_lora_rank") ?? 0;
  return {
    latentSize: vectors("kv_lora_rank"),
    plainSize: fields.size("qk_nope_head_dim", MOST.headSize),
    valueSize: vectors("v_head_dim"),
    queryRank: rank > 0 ? fields.size("q_lora_rank", MOST.width) : undefined,
  };
}

/**
 * Reads the factor of scores, which grows with YaRN's stretch (`yarn_apply_mscale` in transformers).
 *
 * @param querySize - numbers of a head's query
 * @param scaling - parameters that `rope` was read from
 */
export function latentScale(querySize: number, rope: RopeConfig | undefined, scaling: Fields | undefined): number {
  if (rope?.type !== "yarn" || !scaling?.raw("mscale_all_dim")) return 1 / Math.sqrt(querySize);
  return yarnGrowth(rope.factor, scaling.positive("mscale_all_dim")) ** 2 / Math.sqrt(querySize);
}

const DEEPSEEK_MIXTURE: MixtureFields = {
  countField: "n_routed_experts",
  expertSize: "moe_intermediate_size",
  normalizesWeights: "norm_topk_prob",
  ggufNormalizesWeights: false,
  denseLayers: "first_k_dense_replace",
  sharedExperts: "n_shared_experts",
  scalesWeights: true,
};

export const DEEPSEEK: Family = {
  className: "DeepseekV2ForCausalLM",
  architecture: "deepseek2",
  norms: NORMS_BEFORE,
  isLatent: true,
  hasQkvBias: false,
  renamed: {
    "mlp.shared_experts.": "mlp.shared_expert.",
    "mlp.gate.e_score_correction_bias": "mlp.expert_bias",
  },
  defaults: { routed_scaling_factor: 1, n_group: 1, moe_intermediate_size: 1407, rope_interleave: true },
  // Others choose groups of experts first.
  required: { n_group: 1, rope_interleave: true },
  mixture: DEEPSEEK_MIXTURE,
};

export const DEEPSEEK_V3: Family = {
  ...DEEPSEEK,
  className: "DeepseekV3ForCausalLM",
  defaults: {
    ...DEEPSEEK.defaults,
    first_k_dense_replace: 3,
    moe_intermediate_size: 2048,
    norm_topk_prob: true,
    routed_scaling_factor: 2.5,
  },
  mixture: { ...DEEPSEEK_MIXTURE, hasSigmoids: true, ggufNormalizesWeights: true },
};

/** GGUF files of GLM 4.7 Flash are DeepSeek's. */
export const GLM_LITE: Family = {
  ...DEEPSEEK_V3,
  className: "Glm4MoeLiteForCausalLM",
  defaults: { ...DEEPSEEK_V3.defaults, rms_norm_eps: 1e-5, first_k_dense_replace: 1, routed_scaling_factor: 1.8 },
};
