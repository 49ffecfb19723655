// Translates the host's generation options into the engine's sampling parameters.

import {
  type GenerateRequest,
  type SAMPLING_PARAMETERS,
  type SamplingNameWith,
  type SamplingParams,
  samplingParametersWith,
} from "@readme-moe/core";
import type { Generation, HostGenerationConfig } from "../host.ts";

/** Names of the parameters that leave tokens out. */
type TruncationName = (typeof SAMPLING_PARAMETERS)[SamplingNameWith<"transformers">]["transformers"];
type Truncation = Readonly<Partial<Record<TruncationName, number | null>>>;

/** Options that the hosts do not have, or have and ignore. */
export interface ExtraOptions extends Truncation {
  /** Texts that end the generation; the result includes them, as in Python's transformers. */
  readonly stop_strings?: string | readonly string[] | null | undefined;
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
    ...truncation(config, extra),
    ...(isProcessed ? { repetitionPenalty: 1 } : penalties(config, maxTokens)),
    // The host's end tokens may differ from the model's.
    ignoreEos: true,
    stopTokenIds: endTokensOf(config),
    stop: typeof stops === "string" ? [stops] : stops,
  };
}

/** Returns the parameters that leave tokens out, of those that the host resolves and of those that it ignores. */
function truncation({ do_sample: isSampled, ...config }: Truncation & HostGenerationConfig, extra: Truncation) {
  return Object.fromEntries(
    samplingParametersWith("transformers").map(([name, { transformers, default: neutral }]) => [
      name,
      isSampled ? (config[transformers] ?? extra[transformers] ?? neutral) : neutral,
    ]),
  ) satisfies SamplingParams;
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
