// Reads the rotary angles of a config.

import type { Family } from "./family.ts";
import type { Fields } from "./fields.ts";
import { parseLongRope } from "./long-rope.ts";
import type { ModelConfig } from "./model-config.ts";
import { MOST } from "./bounds.ts";
import type { RopeConfig } from "./rope.ts";

type Sizes = Pick<ModelConfig, "rotatedSize" | "contextTokens">;

/** Reads the share of a head that RoPE rotates: with the RoPE parameters, or beside them. Rounds down, as PyTorch. */
export function parseRotatedSize(fields: Fields, { hasPartialRotary = false }: Family, headSize: number): number {
  const parameters = fields.object("rope_parameters") ?? fields.object("rope_scaling");
  const place = parameters?.has("partial_rotary_factor") ? parameters : fields;
  const share = place.positive("partial_rotary_factor", 1);
  if (share !== 1 && !hasPartialRotary) place.unsupported("partial_rotary_factor", "supported is 1");
  return Math.floor(headSize * share);
}

/** Whether so many of a head's dimensions are pairs that RoPE can rotate. */
export function isPairCount(rotatedSize: number, headSize: number): boolean {
  return Number.isInteger(rotatedSize) && rotatedSize % 2 === 0 && rotatedSize >= 2 && rotatedSize <= headSize;
}

/**
 * Reads both spellings: `rope_parameters` (transformers 5), and `rope_theta` with `rope_scaling` (before). In a config
 * with both, `rope_parameters` takes precedence, as in transformers. Families whose layers alternate may have one
 * object in it for each type of layer; the older spelling scales the layers without a window alone.
 *
 * @returns the angles of layers without a window, and of those with one
 */
export function parseRopes(
  fields: Fields,
  family: Family,
  sizes: Sizes,
): { readonly full: RopeConfig; readonly sliding: RopeConfig } {
  const { alternation } = family;
  const parameters = fields.object("rope_parameters");
  const [ofFull, ofSliding] = ["full_attention", "sliding_attention"].map((type) => parameters?.object(type));
  const isByType = ofFull !== undefined || ofSliding !== undefined;
  if (isByType && !alternation) {
    fields.unsupported("rope_parameters", "supported is RoPE that is the same in all layers");
  }
  const theta = fields.positive("rope_theta", 10000);
  const originalTokens = fields.count("original_max_position_embeddings");
  const ropeOf = (scaling: Fields | undefined, plainTheta: number): RopeConfig =>
    parseRope(scaling, family, { ...sizes, plainTheta, originalTokens });
  const full = ropeOf(isByType ? ofFull : (parameters ?? fields.object("rope_scaling")), theta);
  if (!alternation) return { full, sliding: full };
  return { full, sliding: ropeOf(ofSliding, fields.positive(alternation.theta)) };
}

function parseRope(
  scaling: Fields | undefined,
  { ropeTypeNames = {} }: Family,
  outer: Sizes & { readonly plainTheta: number; readonly originalTokens: number | undefined },
): RopeConfig {
  if (scaling === undefined) return { type: "default", theta: outer.plainTheta };
  const theta = scaling.positive("rope_theta", outer.plainTheta);
  const typeField = scaling.has("rope_type") ? "rope_type" : "type";
  const name = scaling.text(typeField, "default");
  const type = (Object.hasOwn(ropeTypeNames, name) && ropeTypeNames[name]) || name;
  switch (type) {
    case "default":
      return { type: "default", theta };
    case "linear":
      return { type: "linear", theta, factor: scaling.positive("factor") };
    case "llama3":
      return {
        type: "llama3",
        theta,
        factor: scaling.positive("factor"),
        lowFreqFactor: scaling.positive("low_freq_factor"),
        highFreqFactor: scaling.positive("high_freq_factor"),
        originalContextTokens: scaling.size("original_max_position_embeddings", MOST.tokens),
      };
    case "longrope":
      return parseLongRope(scaling, outer.originalTokens, { ...outer, theta });
    default:
      return scaling.unsupported(typeField, "supported are default, linear, llama3, longrope");
  }
}
