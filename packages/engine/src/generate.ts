import { integerOption, type PreGatingRouter } from "@readme-moe/core";
import { KvCache } from "@readme-moe/model";
import type { ModelRunner } from "./model-runner.ts";

// Longer prompts run in pieces: attention's memory grows with the square of a piece.
const PREFILL_CHUNK_TOKENS = 512;

export interface GenerateOptions {
  /** @default 128 */
  readonly maxNewTokens?: number | undefined;
  /** Goes on after an end token. @default false */
  readonly ignoreEos?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Why a completion ended: an end token (its last one), or no room for more. */
export type FinishReason = "stop" | "length";

/**
 * Continues a prompt with the most likely token each time. Yields token ids; returns why it ended.
 *
 * @param promptIds - at least one token id
 * @throws {ReadMeError} `ERR_CONTEXT_LENGTH` when the prompt fills the model's context
 */
export async function* generateGreedy(
  runner: ModelRunner,
  router: PreGatingRouter,
  promptIds: ArrayLike<number>,
  options: GenerateOptions = {},
): AsyncGenerator<number, FinishReason> {
  const maxNewTokens = integerOption("maxNewTokens", options.maxNewTokens ?? 128, 1);
  const { contextTokens, eosTokenIds } = runner.model.config;
  const cache = new KvCache(runner.kvShape);
  const state = router.start();
  let tokenIds = Array.from(promptIds);
  for (let numNewTokens = 0; numNewTokens < maxNewTokens; numNewTokens++) {
    options.signal?.throwIfAborted();
    if (numNewTokens > 0 && cache.numTokens >= contextTokens) return "length";
    const [route] = await router.route([{ state, tokenIds }]);
    let best: number | undefined;
    for (let from = 0; from < tokenIds.length; from += PREFILL_CHUNK_TOKENS) {
      options.signal?.throwIfAborted();
      const chunk = tokenIds.slice(from, from + PREFILL_CHUNK_TOKENS);
      const experts = route?.experts.subarray(from, from + chunk.length) ?? [];
      const logitsOf = from + chunk.length === tokenIds.length ? [chunk.length - 1] : [];
      const [result] = await runner.forward([{ cache, tokenIds: chunk, experts, logitsOf }]);
      best = result?.candidateIds[0];
    }
    if (best === undefined) throw new RangeError("Expected `promptIds` to hold at least one token, got none");
    yield best;
    if (eosTokenIds.includes(best) && options.ignoreEos !== true) return "stop";
    tokenIds = [best];
  }
  return "length";
}
