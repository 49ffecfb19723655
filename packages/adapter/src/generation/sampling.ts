// The host's generation options as the engine's sampling parameters.

import type { SamplingParams } from "@readme-moe/core";
import type { Generation, HostGenerationConfig } from "../host/host.ts";

/** Options that the hosts do not have, or have and ignore. */
export interface ExtraOptions {
  /** Ends before more is generated; the text keeps it, as in Python's transformers. */
  readonly stop_strings?: string | readonly string[] | null | undefined;
  readonly min_p?: number | null | undefined;
  /** Makes choices repeatable, whatever else runs. */
  readonly seed?: number | undefined;
  /** One expert for every token, by name or index, instead of the model's router. */
  readonly expert?: string | number | undefined;
  readonly priority?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface SamplingPlan {
  readonly params: Omit<SamplingParams, "seed">;
  /** Of the host's own logits processors some are at work: they do penalties and temperature, too. */
  readonly isProcessed: boolean;
}

/**
 * @param config - resolved by the host
 * @param maxTokens - see `newTokensOf`
 */
export function samplingPlan(
  config: HostGenerationConfig,
  extra: ExtraOptions,
  generation: Generation,
  maxTokens: number,
  isProcessed: boolean,
): SamplingPlan {
  const temperature = config.do_sample ? (config.temperature ?? 1) : 0;
  // The newer generation's processors have divided by the temperature already.
  const isDivided = isProcessed && generation === "huggingface" && config.do_sample;
  const stops = extra.stop_strings ?? [];
  return {
    isProcessed,
    params: {
      maxTokens,
      temperature: isDivided ? 1 : temperature,
      ...(config.do_sample ? choices(config, extra) : {}),
      ...(isProcessed ? {} : penalties(config, maxTokens)),
      // The host's end tokens may be others than the model's.
      ignoreEos: true,
      stopTokenIds: endTokensOf(config),
      stop: typeof stops === "string" ? [stops] : stops,
    },
  };
}

function choices({ top_k: topK, top_p: topP }: HostGenerationConfig, { min_p: minP }: ExtraOptions): SamplingParams {
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
 * How many tokens a row gets at most. The newer generation always generates one, the older none where the prompt is as
 * long as `max_length` already.
 *
 * @param promptTokens - padding included, which `max_length` counts
 * @param roomTokens - of the model's context
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
