import {
  choiceOption,
  EVICTION_POLICIES,
  type EvictionPolicyName,
  integerOption,
  rejectUnknownKeys,
} from "@readme-moe/core";
import { type KernelKind, KV_BLOCK_TOKENS, kvBytesPerToken, type KvPrecision, wholeBlocks } from "@readme-moe/kernel";
import type { ControlTokensInMessages, ModelConfig, Precision } from "@readme-moe/model";
import { functionModuleOption, type FunctionModule, type ResolvedFunctionModule } from "./function-module.ts";
import {
  resolveSchedulingOptions,
  type ResolvedSchedulingOptions,
  type SchedulingOptions,
} from "./scheduling-options.ts";

/** How an engine runs. Sizes that are not given follow from the model. */
export interface EngineOptions extends SchedulingOptions {
  /**
   * Where the model runs: in a process of its own, or in a thread of this one. A crash of the native runtime ends the
   * process that it is in, and memory goes back to the system for certain only when that process ends: after twenty
   * models opened and disposed in threads, their process held six times what it held after the first.
   * @default "process"
   */
  readonly isolation?: "thread" | "process" | undefined;
  /**
   * What products are computed in; int8 takes a quarter of the memory, and is faster. @default "fp32", or "int8" with
   * `expertCacheBytes`
   */
  readonly precision?: Precision | undefined;
  /** Threads that compute. @default all cores, within the control group's share of time */
  readonly threads?: number | undefined;
  /**
   * Build of the kernel that runs the model and its router: the addon of this platform, or WebAssembly.
   * @default `README_MOE_KERNEL`, else the addon where there is one that loads
   */
  readonly kernel?: KernelKind | undefined;
  /** How keys and values are kept; fp16 takes half the memory. @default "fp32" with fp32 weights, else "fp16" */
  readonly kvPrecision?: KvPrecision | undefined;
  /** Where packed weights are kept. @default `README_MOE_CACHE`, else the platform's cache folder */
  readonly cacheFolder?: string | undefined;
  /** Who chooses experts when a request does not say. @default the model's router, where it has one */
  readonly expert?: string | number | undefined;
  /** Sequences that hold KV memory, 1 to 1,024. @default 32 */
  readonly maxNumSeqs?: number | undefined;
  /** Sequences in one step, up to `maxNumSeqs`. @default `maxNumSeqs` */
  readonly maxNumBatchedSeqs?: number | undefined;
  /** Tokens in one step, from `chunkTokens`. @default 512 */
  readonly maxNumBatchedTokens?: number | undefined;
  /** Prefill runs in pieces of this many tokens, a multiple of 64; it bounds how long others wait. @default 128 */
  readonly chunkTokens?: number | undefined;
  /** Memory for keys and values of running sequences. @default 512 MiB, or what one sequence of 4,096 tokens needs */
  readonly kvCacheBytes?: number | undefined;
  /** Memory for keys and values of prompts' beginnings, to be used again. @default a quarter of `kvCacheBytes` */
  readonly prefixCacheBytes?: number | undefined;
  /**
   * Experts' weights in memory at most, reads under way included: the others are read when they are needed. For models with
   * several experts. @default all experts are in memory
   */
  readonly expertCacheBytes?: number | undefined;
  /**
   * Which expert's weights leave memory first, or a function of your own, core's `EvictionPolicy`, exported by a module.
   * @default "belady"
   */
  readonly expertCachePolicy?: EvictionPolicyName | FunctionModule | undefined;
  /**
   * What spellings of control tokens, such as `<|im_end|>`, are in the messages of a chat and in whatever else a caller gives its
   * template: text like any other, or the control tokens, with which a user can end a turn or write a system message. Prompts that
   * are plain texts have control tokens either way. @default "text"
   */
  readonly controlTokensInMessages?: ControlTokensInMessages | undefined;
  /** Requests that may be under way; more are refused with `ERR_QUEUE_FULL`. @default 1,024 */
  readonly maxNumRequests?: number | undefined;
}

type Unresolved =
  | "threads"
  | "kernel"
  | "kvPrecision"
  | "cacheFolder"
  | "expert"
  | "kvCacheBytes"
  | "prefixCacheBytes"
  | "expertCacheBytes";

/** Options with every default filled in that does not depend on the model. */
export type ResolvedEngineOptions = Pick<EngineOptions, Unresolved> &
  ResolvedSchedulingOptions & {
    readonly expertCachePolicy: EvictionPolicyName | ResolvedFunctionModule;
  } & {
    readonly [
      Name in Exclude<keyof EngineOptions, Unresolved | "expertCachePolicy" | keyof SchedulingOptions>
    ]-?: Exclude<EngineOptions[Name], undefined>;
  };

const NAMES = [
  "isolation",
  "precision",
  "threads",
  "kernel",
  "kvPrecision",
  "cacheFolder",
  "expert",
  "maxNumSeqs",
  "maxNumBatchedSeqs",
  "maxNumBatchedTokens",
  "chunkTokens",
  "kvCacheBytes",
  "prefixCacheBytes",
  "expertCacheBytes",
  "expertCachePolicy",
  "controlTokensInMessages",
  "maxNumRequests",
  "scheduler",
  "prefillShare",
  "maxDelayMs",
  "maxStepMs",
] as const satisfies readonly (keyof EngineOptions)[];

/** @throws {TypeError | RangeError} naming the option, what was expected and what came */
export function resolveEngineOptions(options: EngineOptions): ResolvedEngineOptions {
  rejectUnknownKeys("the engine", options, NAMES);
  const maxNumSeqs = integerOption("maxNumSeqs", options.maxNumSeqs ?? 32, 1, 1024);
  const chunkTokens = integerOption("chunkTokens", options.chunkTokens ?? 128, KV_BLOCK_TOKENS, 4096);
  if (chunkTokens % KV_BLOCK_TOKENS !== 0) {
    throw new RangeError(`Expected \`chunkTokens\` to be a multiple of ${KV_BLOCK_TOKENS}, got \`${chunkTokens}\``);
  }
  const optional = (
    name: "threads" | "kvCacheBytes" | "prefixCacheBytes" | "expertCacheBytes",
    min: number,
    max?: number,
  ): number | undefined => (options[name] === undefined ? undefined : integerOption(name, options[name], min, max));
  const { cacheFolder, expert } = options;
  if (cacheFolder !== undefined && typeof cacheFolder !== "string") {
    throw new TypeError("Expected `cacheFolder` to be a string");
  }
  return {
    ...resolveSchedulingOptions(options),
    isolation: choiceOption("isolation", options.isolation ?? "process", ["process", "thread"] as const),
    precision: precisionOf(options),
    threads: optional("threads", 1, 1024),
    kernel: options.kernel && choiceOption("kernel", options.kernel, ["native", "wasm"] as const),
    kvPrecision: options.kvPrecision && choiceOption("kvPrecision", options.kvPrecision, ["fp16", "fp32"] as const),
    cacheFolder,
    expert,
    maxNumSeqs,
    maxNumBatchedSeqs: integerOption("maxNumBatchedSeqs", options.maxNumBatchedSeqs ?? maxNumSeqs, 1, maxNumSeqs),
    maxNumBatchedTokens: integerOption("maxNumBatchedTokens", options.maxNumBatchedTokens ?? 512, chunkTokens, 65_536),
    chunkTokens,
    kvCacheBytes: optional("kvCacheBytes", 1),
    prefixCacheBytes: optional("prefixCacheBytes", 0),
    expertCacheBytes: optional("expertCacheBytes", 1),
    expertCachePolicy: policyOf(options.expertCachePolicy ?? "belady"),
    controlTokensInMessages: choiceOption("controlTokensInMessages", options.controlTokensInMessages ?? "text", [
      "text",
      "control",
    ] as const),
    maxNumRequests: integerOption("maxNumRequests", options.maxNumRequests ?? 1024, 1),
  };
}

function policyOf(policy: EvictionPolicyName | FunctionModule): EvictionPolicyName | ResolvedFunctionModule {
  const module = functionModuleOption("expertCachePolicy", policy);
  return module ?? choiceOption("expertCachePolicy", policy as EvictionPolicyName, EVICTION_POLICIES);
}

function precisionOf({ precision, expertCacheBytes }: EngineOptions): Precision {
  const fallback = expertCacheBytes === undefined ? "fp32" : "int8";
  return choiceOption("precision", precision ?? fallback, ["fp32", "int8", "int4"] as const);
}

/** KV memory in tokens and bytes, for a model's shape. */
export interface KvSizes {
  readonly capacityTokens: number;
  readonly prefixCacheBytes: number;
  /** Largest number of tokens of one sequence. */
  readonly contextTokens: number;
}

/**
 * Sizes of a model's KV memory. The system gives memory when it is first touched: a large capacity costs nothing until
 * sequences fill it.
 *
 * @param kvPrecision - of the runner's memory; fp16 holds twice the tokens of fp32
 * @throws {RangeError} when `kvCacheBytes` does not hold 64 tokens
 */
export function kvSizes(
  options: ResolvedEngineOptions,
  config: ModelConfig,
  kvPrecision: KvPrecision = "fp32",
): KvSizes {
  const bytesPerToken = kvBytesPerToken(config, kvPrecision);
  const most = options.maxNumSeqs * wholeBlocks(config.contextTokens);
  const fallback = Math.min(most, Math.max((512 << 20) / bytesPerToken, Math.min(config.contextTokens, 4096)));
  const wanted = options.kvCacheBytes === undefined ? fallback : Math.min(most, options.kvCacheBytes / bytesPerToken);
  const capacityTokens = Math.floor(wanted / KV_BLOCK_TOKENS) * KV_BLOCK_TOKENS;
  if (capacityTokens === 0) {
    const least = KV_BLOCK_TOKENS * bytesPerToken;
    throw new RangeError(`Expected \`kvCacheBytes\` to be at least ${least}, got \`${options.kvCacheBytes}\``);
  }
  return {
    capacityTokens,
    prefixCacheBytes: options.prefixCacheBytes ?? Math.floor((capacityTokens * bytesPerToken) / 4),
    contextTokens: Math.min(config.contextTokens, capacityTokens),
  };
}
