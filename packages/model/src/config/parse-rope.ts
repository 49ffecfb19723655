import type { Fields } from "./fields.ts";
import type { RopeConfig } from "./rope.ts";

/**
 * Both spellings: `rope_parameters` (transformers 5) and `rope_theta` with `rope_scaling` (before).
 * Where a config has both, `rope_parameters` wins, as in transformers.
 *
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` naming a scaling that is not supported
 */
export function parseRope(fields: Fields): RopeConfig {
  const scaling = fields.object("rope_parameters") ?? fields.object("rope_scaling");
  const plainTheta = fields.positive("rope_theta", 10000);
  if (scaling === undefined) return { type: "default", theta: plainTheta };

  const theta = scaling.positive("rope_theta", plainTheta);
  const typeField = scaling.has("rope_type") ? "rope_type" : "type";
  switch (scaling.text(typeField, "default")) {
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
        originalContextTokens: scaling.size("original_max_position_embeddings"),
      };
    default:
      return scaling.unsupported(typeField, "supported are default, linear, llama3");
  }
}
