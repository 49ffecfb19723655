// Parameters that a model's files recommend, and how they meet those of a request.

import type { SamplingParams } from "./sampling-params.ts";

/** Sampling parameters that a model's files recommend. Absent ones are not in the files. */
export type SamplingDefaults = Pick<
  SamplingParams,
  "maxTokens" | "temperature" | "topK" | "topP" | "minP" | "repetitionPenalty" | "stop"
>;

/**
 * Fills in what a request leaves out. What the request says wins, also where its value is the neutral one.
 *
 * @param defaults - of the model; `undefined` changes nothing
 */
export function withSamplingDefaults<Params extends SamplingParams>(
  params: Params,
  defaults: SamplingDefaults | undefined,
): Params {
  // Wrong parameters are refused later, with a message of their own.
  if (defaults === undefined || typeof params !== "object" || params === null) return params;
  const given = Object.entries(params).filter(([, value]) => value !== undefined);
  const filled = { ...defaults, ...Object.fromEntries(given) };
  const { minTokens } = params;
  if (params.maxTokens === undefined && typeof minTokens === "number") {
    filled.maxTokens = recommendedMaxTokens(defaults, minTokens);
  }
  return filled as Params;
}

/**
 * Returns a model's limit of completion tokens, which does not contradict a request that asks for more tokens.
 *
 * @param minTokens - of the request
 */
export function recommendedMaxTokens(defaults: SamplingDefaults | undefined, minTokens: number): number | undefined {
  return defaults?.maxTokens === undefined ? undefined : Math.max(defaults.maxTokens, minTokens);
}
