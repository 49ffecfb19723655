import { integerOption } from "@readme-moe/core";
import { KV_BLOCK_TOKENS, kvBytesPerToken, type KvPrecision, wholeBlocks } from "@readme-moe/kernel";
import type { ModelConfig } from "@readme-moe/model";
import type { ResolvedEngineOptions } from "./engine-options.ts";

/** Sizes of the KV memory for a model's shape. */
export interface KvSizes {
  readonly capacityTokens: number;
  readonly prefixCacheBytes: number;
  /** Largest number of tokens of one sequence. */
  readonly contextTokens: number;
}

/**
 * Computes the sizes of a model's KV memory. The system provides memory when it is first written, so a large capacity
 * costs nothing until sequences fill it.
 *
 * @param kvPrecision - precision of the memory; fp16 holds twice as many tokens as fp32
 * @throws {RangeError} if `kvCacheBytes` does not hold 64 tokens, or `contextTokens` is more than the model's
 */
export function kvSizes(
  options: ResolvedEngineOptions,
  config: ModelConfig,
  kvPrecision: KvPrecision = "fp32",
): KvSizes {
  const bytesPerToken = kvBytesPerToken(config, kvPrecision);
  const wantedTokens = options.contextTokens ?? config.contextTokens;
  const contextTokens = integerOption("contextTokens", wantedTokens, 1, config.contextTokens);
  const most = options.maxNumSeqs * wholeBlocks(contextTokens);
  const fallback = Math.min(most, Math.max((512 << 20) / bytesPerToken, Math.min(contextTokens, 4096)));
  const wanted = options.kvCacheBytes === undefined ? fallback : Math.min(most, options.kvCacheBytes / bytesPerToken);
  const capacityTokens = Math.floor(wanted / KV_BLOCK_TOKENS) * KV_BLOCK_TOKENS;
  if (capacityTokens === 0) {
    const least = KV_BLOCK_TOKENS * bytesPerToken;
    throw new RangeError(`Expected \`kvCacheBytes\` to be at least ${least}, got \`${options.kvCacheBytes}\``);
  }
  return {
    capacityTokens,
    prefixCacheBytes: options.prefixCacheBytes ?? Math.floor((capacityTokens * bytesPerToken) / 4),
    contextTokens: Math.min(contextTokens, capacityTokens),
  };
}
