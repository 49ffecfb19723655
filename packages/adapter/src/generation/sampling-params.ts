// Translates the host's generation options into the engine's sampling parameters.

import type { GenerateRequest, SamplingParams } from "@readme-moe/core";
import type { Generation, HostGenerationConfig } from "../host.ts";

/** Options that the hosts do not have, or have and ignore. */
export interface ExtraOptions {
  /** Texts that end the generation; the result includes them, as in Python's transformers. */
  readonly stop_strings?: string | readonly string[] | null | undefined;
  readonly min_p?: number | null | undefined;
  /** Makes sampling repeatable, whatever else runs. */
  readonly seed?: number | undefined;
  /** One expert for every token, by name or index, instead of the model's router. */
  readonly expert?: string | number | undefined;
  readonly priority?: number | undefined;
  /** A text or token ids that all rows are expected to repeat. Saves time where it is right; changes no token. */
  readonly prediction?: GenerateRequest["prediction"];
  readonly signal?: AbortSignal | undefined;
}

/**
 * @param config - resolved by the host
 * @param row - `maxTokens` is from `newTokensOf`; `isProcessed`: the host's processors do penalties and temperature
 */
export function samplingOf(
  config: HostGenerationConfig,
  extra: ExtraOptions,
  row: { readonly generation: Generation; readonly maxTokens: number; readonly isProcessed: boolean },
): Omit<SamplingParams, "seed"> {
  const { generation, maxTokens, isProcessed } = row;
  const temperature = config.do_sample ? (config.temperature ?? 1) : 0;
  // The newer generation's processors have already divided by the temperature.
  const isDivided = isProcessed && generation === "huggingface" && config.do_sample;
  const stops = extra.stop_strings ?? [];
  return {
    maxTokens,
    temperature: isDivided ? 1 : temperature,
    // Every parameter is given: the host has applied the model's own defaults, and its processors the penalty.
    ...candidates(config.do_sample ? config : NO_LIMITS, config.do_sample ? extra : {}),
    ...(isProcessed ? { repetitionPenalty: 1 } : penalties(config, maxTokens)),
    // The host's end tokens may differ from the model's.
    ignoreEos: true,
    stopTokenIds: endTokensOf(config),
    stop: typeof stops === "string" ? [stops] : stops,
  };
}

const NO_LIMITS = { top_k: null, top_p: null };

function candidates(
  { top_k: topK, top_p: topP }: Pick<HostGenerationConfig, "top_k" | "top_p">,
  { min_p: minP }: ExtraOptions,
): SamplingParams {
  return { topK: topK ?? 0, topP: topP ?? 1, minP: minP ?? 0 };
}

function penalties(config: HostGenerationConfig, maxTokens: number): SamplingParams {
  const minTokens = Math.min(config.min_new_tokens ?? 0, maxTokens);
  return { repetitionPenalty: config.repetition_penalty ?? 1, minTokens };
}

export function endTokensOf({ eos_token_id: ids }: HostGenerationConfig): readonly number[] {
  if (ids === null || ids === undefined) return [];
  return typeof ids === "number" ? [ids] : ids;
}

/**
 * Counts the most tokens that a row gets. The newer generation always generates one, the older none if the prompt is
 * already as long as `max_length`.
 *
 * @param promptTokens - with padding, which `max_length` counts
 * @param roomTokens - room in the model's context
 */
export function newTokensOf(
  config: HostGenerationConfig,
  generation: Generation,
  promptTokens: number,
  roomTokens: number,
): number {
  const { max_new_tokens: maxNew, max_length: maxLength } = config;
  const wanted = maxNew ?? (maxLength === null ? Infinity : maxLength - promptTokens);
  const least = generation === "huggingface" ? 1 : 0;
  return Math.max(least, Math.min(wanted, Math.max(1, roomTokens)));
}
