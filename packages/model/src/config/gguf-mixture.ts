// Reads the metadata of a GGUF file that describes a mixture of experts, under the field names of config.json.

import { describeValue, ReadMeError } from "@readme-moe/core";
import type { MixtureFields } from "./family.ts";

/** Metadata keys of mixtures, behind the architecture's name, by config.json's field. */
export const GGUF_MIXTURE_KEYS = {
  num_local_experts: "expert_count",
  num_experts_per_tok: "expert_used_count",
  moe_intermediate_size: "expert_feed_forward_length",
} as const;

/** Keys of computations that are not supported, with the values that leave them out besides an absent key and 0. */
const UNSUPPORTED_KEYS: Readonly<Record<string, readonly number[]>> = {
  // Number 1 is the softmax of `llama_expert_gating_func_type` in llama.cpp's src/llama-hparams.h.
  expert_gating_func: [1],
  expert_weights_scale: [1],
  expert_group_count: [1],
  expert_shared_count: [],
  expert_shared_feed_forward_length: [],
  leading_dense_block_count: [],
};

/** Reads a number; NaN for anything else, such as a list, which `Number` would write out. */
export function numberOf(value: unknown): number {
  return typeof value === "number" ? value : NaN;
}

/**
 * Reads a mixture's fields.
 *
 * @param get - reads the value of a key behind the architecture's name
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` naming a key of a computation that is not supported
 */
export function ggufMixtureFields(
  { ggufNormalizesWeights }: MixtureFields,
  path: string,
  get: (key: string) => unknown,
): object {
  for (const [key, harmless] of Object.entries(UNSUPPORTED_KEYS)) {
    const value = get(key);
    if (value === undefined || value === 0 || harmless.includes(numberOf(value))) continue;
    throw new ReadMeError("ERR_MODEL_UNSUPPORTED", `${path}: \`${key}\` ${describeValue(value)} is not supported`);
  }
  const fields = Object.fromEntries(Object.entries(GGUF_MIXTURE_KEYS).map(([field, key]) => [field, get(key)]));
  return {
    ...fields,
    // Without the key, llama.cpp's src/models/qwen3moe.cpp divides the dense width among the experts of a token.
    moe_intermediate_size:
      fields["moe_intermediate_size"] || numberOf(get("feed_forward_length")) / numberOf(fields["num_experts_per_tok"]),
    norm_topk_prob: ggufNormalizesWeights,
  };
}
