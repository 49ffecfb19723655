import { createHash } from "node:crypto";
import { integerOption } from "@readme-moe/core";
import { ropeForContext } from "../config/long-rope.ts";
import type { Model } from "./model.ts";

/**
 * Chooses what depends on the context that a model is used with: the divisors of LongRoPE's frequencies, which are
 * others in contexts longer than the original one. Other models stay as they are. `openModel` chooses for the largest
 * context.
 *
 * @param contextTokens - largest number of tokens that a sequence will have, 1 to the model's `contextTokens`
 * @returns the model or one that shares its files, so that closing either closes both
 * @throws {RangeError} for another `contextTokens`
 */
export function forContext(model: Model, contextTokens: number): Model {
  const { config } = model;
  integerOption("contextTokens", contextTokens, 1, config.contextTokens);
  const ropes = config.ropes.map((rope) => ropeForContext(rope, contextTokens));
  if (JSON.stringify(ropes) === JSON.stringify(config.ropes)) return model;
  // Weights may be packed by what the model computes, and then differ.
  const fingerprint = async (cacheFolder: string): Promise<string> =>
    createHash("sha256")
      .update(`${await model.fingerprint(cacheFolder)} ${JSON.stringify(ropes)}`)
      .digest("hex");
  return { ...model, config: { ...config, ropes }, fingerprint };
}
