// The host's own logits processors, run in the caller's thread on the engine's logits.

import type { GenerateRequest } from "@readme-moe/core";
import {
  insideOf,
  logitsProcessors,
  type Generation,
  type HostGenerationConfig,
  type HostLike,
  type HostModel,
  type HostProcessors,
} from "../host/host.ts";

/**
 * Those that the options ask for and the caller's own; `undefined` where the engine's sampling does all that is asked for.
 * Then penalties and temperature are the engine's: the same numbers, and no logits leave it.
 */
export function processorsOf(
  model: HostModel,
  config: HostGenerationConfig,
  generation: Generation,
  promptTokens: number,
  own: unknown,
): HostProcessors | undefined {
  // Also for what it does beside: the newer generation takes temperature 0 for greedy search, and says so.
  const all = logitsProcessors(model, config, promptTokens, own);
  const without = { ...config, do_sample: false, min_new_tokens: null };
  // The older generation's penalty counts a token once for each time that it is there; the engine's does not.
  if (generation === "huggingface") without.repetition_penalty = null;
  const rest = logitsProcessors(model, without, promptTokens, own);
  return rest.processors.length > 0 ? all : undefined;
}

/** @param padded - the prompt with its padding, which the host's processors see */
export function processLogits(
  host: HostLike,
  processors: HostProcessors,
  generation: Generation,
  padded: readonly bigint[],
): NonNullable<GenerateRequest["processLogits"]> {
  const { Tensor } = insideOf(host);
  return (logits, { tokenIds, promptTokens }) => {
    const generated = Array.from(tokenIds.subarray(promptTokens));
    if (generation === "huggingface") {
      const ids = [...padded, ...generated.map(BigInt)];
      const result = processors([ids], new Tensor("float32", logits, [1, logits.length]));
      return result.data as Float32Array;
    }
    // Changed in place, through views of the same memory.
    processors([...padded.map(Number), ...generated], new Tensor("float32", logits, [1, 1, logits.length]));
    return logits;
  };
}
