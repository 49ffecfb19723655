import { integerOption, numberOption } from "@readme-moe/core";
import { KV_BLOCK_TOKENS, kvBytesPerToken, type KvPrecision, precisionOf, wholeBlocks } from "@readme-moe/kernel";
import type { Model, Precision } from "@readme-moe/model";
import { type KernelRunnerOptions } from "../kernel-runner.ts";
import { kvPrecisionOf } from "../kv-precision.ts";

/** Options of a draft model. Those that engines have, too, have the same names. */
export interface DraftModelOptions extends Pick<
  KernelRunnerOptions,
  "cacheFolder" | "threads" | "kernel" | "kvPrecision" | "onProgress" | "onCacheFailure"
> {
  /** The engine's precision; the draft model's is its own default unless this is fp32. @default "fp32" */
  readonly precision?: Precision | undefined;
  /** Largest number of sequences at a time, which bounds the memory that is of use. @default 32 */
  readonly maxNumSeqs?: number | undefined;
  /** Largest number of tokens of a sequence in the engine. @default the draft model's own */
  readonly contextTokens?: number | undefined;
  /** Memory for keys and values. @default 512 MiB, or what one sequence of 4,096 tokens needs */
  readonly kvBytes?: number | undefined;
  /** Number of prompt tokens that one call reads at most, of all sequences together. @default 128 */
  readonly chunkTokens?: number | undefined;
  /** Chance that a token is reached and accepted, below which a draft ends before it. @default 0.1 */
  readonly leastChance?: number | undefined;
  /** Number of tokens of the model that verifies; others are not drafted. @default the draft model's own */
  readonly vocabSize?: number | undefined;
  /** Clock in ms. @default performance.now */
  readonly now?: (() => number) | undefined;
}

/** Options with all defaults, for one model. */
export interface ResolvedDraftModelOptions {
  readonly precision: Precision;
  readonly kvPrecision: KvPrecision;
  readonly capacityTokens: number;
  readonly chunkTokens: number;
  readonly leastChance: number;
  readonly vocabSize: number;
  readonly now: () => number;
}

const DEFAULT_KV_BYTES = 512 << 20;
const DEFAULT_KV_TOKENS = 4096;

/**
 * Checks the options that the kernel does not check, and fills in defaults.
 * @throws {TypeError | RangeError} with the option, expectation and value
 */
export function resolveDraftModelOptions(
  options: DraftModelOptions,
  model: Pick<Model, "config" | "weights">,
): ResolvedDraftModelOptions {
  const { config } = model;
  const { vocabSize, contextTokens } = config;
  const precision = (options.precision ?? "fp32") === "fp32" ? "fp32" : precisionOf(model);
  const kvPrecision = kvPrecisionOf(precision, options.kvPrecision);
  const bytesPerToken = kvBytesPerToken(config, kvPrecision);
  const fallback = Math.max(DEFAULT_KV_BYTES, bytesPerToken * Math.min(contextTokens, DEFAULT_KV_TOKENS));
  const kvBytes = integerOption("kvBytes", options.kvBytes ?? fallback, bytesPerToken * KV_BLOCK_TOKENS);
  const most = integerOption("maxNumSeqs", options.maxNumSeqs ?? 32, 1) * wholeBlocks(contextTokens);
  return {
    precision,
    kvPrecision,
    capacityTokens: Math.floor(Math.min(most, kvBytes / bytesPerToken) / KV_BLOCK_TOKENS) * KV_BLOCK_TOKENS,
    chunkTokens: integerOption("chunkTokens", options.chunkTokens ?? 128, 1),
    leastChance: numberOption("leastChance", options.leastChance ?? 0.1, 0, 1),
    vocabSize: Math.min(options.vocabSize ?? Infinity, vocabSize),
    now: options.now ?? (() => performance.now()),
  };
}
