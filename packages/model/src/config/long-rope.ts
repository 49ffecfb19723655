// LongRoPE: frequencies have other divisors in long contexts than in short ones (Phi-3).

import type { Fields } from "./fields.ts";
import type { ModelConfig } from "./model-config.ts";
import { MOST } from "./bounds.ts";
import type { RopeConfig } from "./rope.ts";

type LongRope = RopeConfig & { readonly type: "longrope" };

/**
 * Reads the parameters of LongRoPE as transformers does (`_compute_longrope_parameters`).
 *
 * @param outer - `original_max_position_embeddings` beside the parameters, which takes precedence over the one in them
 * @throws {ReadMeError} `ERR_MODEL_INVALID` naming the field
 */
export function parseLongRope(
  parameters: Fields,
  outer: number | undefined,
  sizes: Pick<ModelConfig, "rotatedSize" | "contextTokens"> & { readonly theta: number },
): LongRope {
  const { theta, rotatedSize, contextTokens } = sizes;
  const originalContextTokens =
    outer ?? parameters.size("original_max_position_embeddings", MOST.tokens, contextTokens);
  // The logarithm of 1 would be a divisor.
  if (originalContextTokens < 2)
    throw parameters.invalid("expected `original_max_position_embeddings` to be at least 2");
  const stretch = parameters.positive("factor", contextTokens / originalContextTokens);
  return {
    type: "longrope",
    theta,
    shortFactors: parameters.positives("short_factor", rotatedSize / 2),
    longFactors: parameters.positives("long_factor", rotatedSize / 2),
    originalContextTokens,
    attentionFactor: parameters.positive("attention_factor", attentionFactorOf(stretch, originalContextTokens)),
    isLong: contextTokens > originalContextTokens,
  };
}

/** Computes LongRoPE's factor of cosines and sines for a context that is `stretch` times the original one. */
export function attentionFactorOf(stretch: number, originalContextTokens: number): number {
  return stretch <= 1 ? 1 : Math.sqrt(1 + Math.log(stretch) / Math.log(originalContextTokens));
}

/**
 * Chooses the divisors for a context. They are chosen once for all tokens: a choice by the length of a sequence would
 * make a token's logits depend on later tokens.
 *
 * @param contextTokens - largest number of tokens that a sequence will have
 */
export function ropeForContext(rope: RopeConfig, contextTokens: number): RopeConfig {
  return rope.type === "longrope" ? { ...rope, isLong: contextTokens > rope.originalContextTokens } : rope;
}
