// Options of an engine, of its scheduling, and of a reader of prompts: their types and checks.

import { resolve } from "node:path";
import {
  choiceOption,
  costAware,
  describeValue,
  EVICTION_POLICIES,
  type EvictionPolicyName,
  fcfs,
  integerOption,
  MAX_TIMER_MS,
  numberOption,
  readMe,
  rejectUnknownKeys,
  isRecord,
  type Scheduler,
} from "@readme-moe/core";
import {
  type LoraPrecision,
  type KernelKind,
  KV_BLOCK_TOKENS,
  KV_PRECISIONS,
  type KvPrecision,
} from "@readme-moe/kernel";
import type { ControlTokensInMessages, Precision } from "@readme-moe/model";
import {
  type FunctionModule,
  functionModuleOption,
  importFunction,
  type ResolvedFunctionModule,
} from "./function-module.ts";

/** Options of the scheduler. */
export interface SchedulingOptions {
  /**
   * Scheduler: "cost-aware" makes the most of the predicted time of a step; "read-me" runs whole expert queues, the
   * longest first (Read-ME, Algorithm 1); "fcfs" is first come, first served. Or a function of your own, core's
   * `Scheduler`, that a module exports.
   * @default "cost-aware", or "fcfs" with `prefillShare`
   */
  readonly scheduler?: "cost-aware" | "read-me" | "fcfs" | FunctionModule | undefined;
  /**
   * Share of a step that prefill may take while other sequences decode, from 0 (decode first) to 1 (prefill first), or
   * "by-arrival" for no preference. Only for `"fcfs"`. @default "by-arrival"
   */
  readonly prefillShare?: number | "by-arrival" | undefined;
  /**
   * Longest time in ms that a sequence may be left out of steps before it goes first, from 0. No wait exceeds this by
   * more than one step for each sequence that holds KV memory. @default 500, with `"fcfs"` Infinity
   */
  readonly maxDelayMs?: number | undefined;
  /**
   * Longest predicted time in ms of a step with prefill while other sequences decode, from 1. Only for `"cost-aware"`.
   * @default 250
   */
  readonly maxStepMs?: number | undefined;
}

type SchedulerName = Extract<SchedulingOptions["scheduler"], string>;

/** Checked options; missing ones have the defaults of the scheduler. */
export type ResolvedSchedulingOptions = Omit<SchedulingOptions, "scheduler"> & {
  readonly scheduler: SchedulerName | ResolvedFunctionModule;
};

/** The schedulers that take each option. */
const SCHEDULERS_OF: readonly (readonly ["prefillShare" | "maxDelayMs" | "maxStepMs", readonly SchedulerName[]])[] = [
  ["prefillShare", ["fcfs"]],
  ["maxDelayMs", ["cost-aware", "read-me", "fcfs"]],
  ["maxStepMs", ["cost-aware"]],
];

/** Checks options. @throws {TypeError | RangeError} with the option, expectation and value */
export function resolveSchedulingOptions(options: SchedulingOptions): ResolvedSchedulingOptions {
  const { prefillShare, maxDelayMs, maxStepMs } = options;
  const { scheduler = prefillShare === undefined ? "cost-aware" : "fcfs" } = options;
  const resolved = {
    scheduler:
      functionModuleOption("scheduler", scheduler) ??
      choiceOption("scheduler", scheduler, ["fcfs", "read-me", "cost-aware"] as const),
    prefillShare: prefillShare === undefined ? undefined : shareOption(prefillShare),
    maxDelayMs: maxDelayMs === undefined ? undefined : numberOption("maxDelayMs", maxDelayMs, 0),
    maxStepMs: maxStepMs === undefined ? undefined : numberOption("maxStepMs", maxStepMs, 1),
  };
  for (const [name, schedulers] of SCHEDULERS_OF) {
    const value = resolved[name];
    if (value === undefined || schedulers.some((one) => one === resolved.scheduler)) continue;
    const known = schedulers.map((one) => `"${one}"`).join(", ");
    const got = typeof resolved.scheduler === "string" ? `"${resolved.scheduler}"` : "a function of your own";
    throw new TypeError(`Expected \`${name}\` with the scheduler ${known} only, got it with ${got}`);
  }
  return resolved;
}

/** Creates the scheduler. @throws {ReadMeError} `ERR_MODULE` if it is a module's function and cannot be imported */
export async function schedulerOf(options: ResolvedSchedulingOptions): Promise<Scheduler> {
  const { scheduler } = options;
  if (typeof scheduler !== "string") return importFunction<Scheduler>(scheduler);
  return { fcfs, "read-me": readMe, "cost-aware": costAware }[scheduler](options);
}

function shareOption(value: unknown): number | "by-arrival" {
  if (typeof value === "number") return numberOption("prefillShare", value, 0, 1);
  if (value === "by-arrival") return value;
  throw new TypeError(`Expected \`prefillShare\` to be a number or "by-arrival", got ${describeValue(value)}`);
}

/** Options of an engine. The defaults of sizes depend on the model. */
export interface EngineOptions extends SchedulingOptions {
  /**
   * Whether the model runs in a process of its own or in a thread of this one. A crash of native code ends its
   * process, and all memory returns to the system only when the process ends: after twenty models were opened and
   * disposed in threads, their process held six times as much memory as after the first.
   * @default "process"
   */
  readonly isolation?: "thread" | "process" | undefined;
  /**
   * Longest time without a sign of life from the engine while an answer is awaited, in ms. The engine gives one between
   * two steps; ten of its longest steps are always allowed, and opening a model may take five times as long. An engine
   * that is silent for longer hangs: it is ended, and its requests end with `ERR_ENGINE_FAILED`. A thread that hangs in
   * native code cannot be ended. Time in which this process is suspended does not count.
   * @default 60,000
   */
  readonly hungMs?: number | undefined;
  /**
   * Precision of products. "file" takes the blocks of a GGUF file, or of safetensors in MXFP4, as they are; "fp32" has
   * PyTorch's numbers; "int8" takes a quarter of the memory, is faster, and loses some thousandths of a nat.
   * @default "file" for a model in blocks, else "int8"
   */
  readonly precision?: Precision | undefined;
  /** Number of computing threads. @default all physical cores, within the control groups' shares of time */
  readonly threads?: number | undefined;
  /**
   * Build of the kernel that runs the model and its router: the addon of this platform, or WebAssembly.
   * @default `README_MOE_KERNEL`, else the addon if there is one that loads
   */
  readonly kernel?: KernelKind | undefined;
  /**
   * Number type of keys and values; fp16 takes half of the memory of fp32, int8 a quarter and a scale for each head.
   * @default "fp32" with fp32 weights, else "fp16"
   */
  readonly kvPrecision?: KvPrecision | undefined;
  /** Folder of packed weights. @default `README_MOE_CACHE`, else the platform's cache folder */
  readonly cacheFolder?: string | undefined;
  /** Expert for requests that name none, by name or index. @default the model's router chooses, if it has one */
  readonly expert?: string | number | undefined;
  /** Largest number of sequences that hold KV memory, 1 to 1,024. @default 32 */
  readonly maxNumSeqs?: number | undefined;
  /** Largest number of sequences in one step, up to `maxNumSeqs`. @default `maxNumSeqs` */
  readonly maxNumBatchedSeqs?: number | undefined;
  /** Largest number of tokens in one step, from `chunkTokens`. @default 512 */
  readonly maxNumBatchedTokens?: number | undefined;
  /**
   * Number of prompt tokens that run at once, a multiple of 64; it bounds the wait of other sequences.
   * @default 128
   */
  readonly chunkTokens?: number | undefined;
  /**
   * Largest number of tokens of a sequence, prompt and completion together. Models with LongRoPE (Phi-3) have other
   * numbers in contexts longer than their original one.
   * @default the model's, or what fits into `kvCacheBytes` if that is less
   */
  readonly contextTokens?: number | undefined;
  /** Memory for keys and values of running sequences. @default 512 MiB, or what one sequence of 4,096 tokens needs */
  readonly kvCacheBytes?: number | undefined;
  /** Memory for keys and values of prompt prefixes, which are reused. @default a quarter of `kvCacheBytes` */
  readonly prefixCacheBytes?: number | undefined;
  /**
   * Folder for the keys and values of prompts that are kept (`ReadMeEngine.keepPrompt`): the next engine with the same
   * model reads them instead of computing them, also on another machine. @default kept prompts are not saved
   */
  readonly savedPromptsFolder?: string | undefined;
  /** Largest size of these files together; those that were not used for longest are removed. @default 1 GiB */
  readonly savedPromptsBytes?: number | undefined;
  /**
   * Largest number of bytes of experts' weights in memory, reads in progress included. The other experts are read when
   * they are needed. At least one layer of all experts; of a mixture with a router in every layer, a token's experts in
   * one layer. @default all experts are in memory
   */
  readonly expertCacheBytes?: number | undefined;
  /**
   * Policy that chooses which expert's weights are evicted, or a function of your own, core's `EvictionPolicy`, that a
   * module exports. Only with `expertCacheBytes`. @default "belady"
   */
  readonly expertCachePolicy?: EvictionPolicyName | FunctionModule | undefined;
  /**
   * Loras (LoRA adapters in PEFT's layout) of a dense model, beside those of its folder: folders by name. A
   * folder is an adapter, or an expert set, whose experts have names of their own. @default none
   */
  readonly loras?: Readonly<Record<string, string>> | undefined;
  /** Number type of loras in memory. @default "fp32" with fp32 weights, else "int8" */
  readonly loraPrecision?: LoraPrecision | undefined;
  /**
   * Meaning of spellings of control tokens, such as `<|im_end|>`, in the messages of a chat and in the other values of
   * its template. "text": they are plain text. "control": they are the control tokens, with which a user can end a
   * turn or write a system message. In prompts that are plain texts they are always control tokens. @default "text"
   */
  readonly controlTokensInMessages?: ControlTokensInMessages | undefined;
  /**
   * Whether steps also run tokens that are likely to follow, drafted from the prompt, the answer so far, predictions
   * and grammars. Right drafts save steps; wrong ones are dropped. Tokens and log-probabilities stay the same.
   * @default true
   */
  readonly speculation?: boolean | undefined;
  /**
   * A second, small model that drafts tokens as well: a folder or a GGUF file whose vocabulary is the same. Not without
   * `speculation`. @default none
   */
  readonly draft?: string | undefined;
  /**
   * Whether requests take what they leave out from the model's files: the sampling parameters of
   * generation_config.json, or `general.sampling` of a GGUF file. @default "model"
   */
  readonly samplingDefaults?: "model" | "none" | undefined;
  /** Largest number of requests in progress; more are rejected with `ERR_QUEUE_FULL`. @default 1,024 */
  readonly maxNumRequests?: number | undefined;
}

type Unresolved =
  | "precision"
  | "threads"
  | "kernel"
  | "kvPrecision"
  | "cacheFolder"
  | "expert"
  | "contextTokens"
  | "kvCacheBytes"
  | "prefixCacheBytes"
  | "savedPromptsFolder"
  | "expertCacheBytes"
  | "loras"
  | "loraPrecision"
  | "draft";

type ResolvedPolicy = EvictionPolicyName | ResolvedFunctionModule;

/** Options with all defaults that do not depend on the model. */
export type ResolvedEngineOptions = Pick<EngineOptions, Unresolved> &
  ResolvedSchedulingOptions & {
    readonly expertCachePolicy: ResolvedPolicy;
  } & {
    readonly [
      Name in Exclude<keyof EngineOptions, Unresolved | "expertCachePolicy" | keyof SchedulingOptions>
    ]-?: Exclude<EngineOptions[Name], undefined>;
  };

const NAMES = [
  "isolation",
  "hungMs",
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
  "contextTokens",
  "kvCacheBytes",
  "prefixCacheBytes",
  "savedPromptsFolder",
  "savedPromptsBytes",
  "expertCacheBytes",
  "expertCachePolicy",
  "loras",
  "loraPrecision",
  "controlTokensInMessages",
  "speculation",
  "draft",
  "samplingDefaults",
  "maxNumRequests",
  "scheduler",
  "prefillShare",
  "maxDelayMs",
  "maxStepMs",
] as const satisfies readonly (keyof EngineOptions)[];

/** Checks options and fills in defaults. @throws {TypeError | RangeError} with the option, expectation and value */
export function resolveEngineOptions(options: EngineOptions): ResolvedEngineOptions {
  rejectUnknownKeys("the engine", options, NAMES);
  const maxNumSeqs = integerOption("maxNumSeqs", options.maxNumSeqs ?? 32, 1, 1024);
  const chunkTokens = integerOption("chunkTokens", options.chunkTokens ?? 128, KV_BLOCK_TOKENS, 4096);
  if (chunkTokens % KV_BLOCK_TOKENS !== 0) {
    throw new RangeError(`Expected \`chunkTokens\` to be a multiple of ${KV_BLOCK_TOKENS}, got \`${chunkTokens}\``);
  }
  const optional = (
    name: "threads" | "contextTokens" | "kvCacheBytes" | "prefixCacheBytes" | "expertCacheBytes",
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
    hungMs: integerOption("hungMs", options.hungMs ?? 60_000, 1, MAX_TIMER_MS),
    precision:
      options.precision && choiceOption("precision", options.precision, ["fp32", "int8", "int4", "file"] as const),
    threads: optional("threads", 1, 1024),
    kernel: options.kernel && choiceOption("kernel", options.kernel, ["native", "wasm"] as const),
    kvPrecision: options.kvPrecision && choiceOption("kvPrecision", options.kvPrecision, KV_PRECISIONS),
    cacheFolder,
    expert,
    maxNumSeqs,
    maxNumBatchedSeqs: integerOption("maxNumBatchedSeqs", options.maxNumBatchedSeqs ?? maxNumSeqs, 1, maxNumSeqs),
    maxNumBatchedTokens: integerOption("maxNumBatchedTokens", options.maxNumBatchedTokens ?? 512, chunkTokens, 65_536),
    chunkTokens,
    contextTokens: optional("contextTokens", 2),
    kvCacheBytes: optional("kvCacheBytes", 1),
    prefixCacheBytes: optional("prefixCacheBytes", 0),
    ...savedPromptsOf(options),
    expertCacheBytes: optional("expertCacheBytes", 1),
    expertCachePolicy: policyOf(options),
    loras: lorasOf(options),
    loraPrecision:
      options.loraPrecision && choiceOption("loraPrecision", options.loraPrecision, ["fp32", "fp16", "int8"] as const),
    controlTokensInMessages: choiceOption("controlTokensInMessages", options.controlTokensInMessages ?? "text", [
      "text",
      "control",
    ] as const),
    ...speculationOf(options),
    samplingDefaults: choiceOption("samplingDefaults", options.samplingDefaults ?? "model", ["model", "none"] as const),
    maxNumRequests: integerOption("maxNumRequests", options.maxNumRequests ?? 1024, 1),
  };
}

function savedPromptsOf({
  savedPromptsFolder,
  savedPromptsBytes,
}: EngineOptions): Pick<ResolvedEngineOptions, "savedPromptsFolder" | "savedPromptsBytes"> {
  if (savedPromptsFolder !== undefined && (typeof savedPromptsFolder !== "string" || savedPromptsFolder === "")) {
    throw new TypeError(`Expected \`savedPromptsFolder\` to name a folder, got ${describeValue(savedPromptsFolder)}`);
  }
  if (savedPromptsBytes !== undefined && savedPromptsFolder === undefined) {
    throw new TypeError("Expected `savedPromptsBytes` with `savedPromptsFolder` only");
  }
  return {
    savedPromptsFolder: savedPromptsFolder === undefined ? undefined : resolve(savedPromptsFolder),
    savedPromptsBytes: integerOption("savedPromptsBytes", savedPromptsBytes ?? 2 ** 30, 1),
  };
}

function lorasOf({ loras }: EngineOptions): Readonly<Record<string, string>> | undefined {
  if (loras === undefined) return undefined;
  if (isRecord(loras) && Object.values(loras).every((path) => typeof path === "string" && path !== ""))
    return { ...loras };
  throw new TypeError("Expected `loras` to be an object with folders by name");
}

function speculationOf({
  speculation = true,
  draft,
}: EngineOptions): Pick<ResolvedEngineOptions, "speculation" | "draft"> {
  if (typeof speculation !== "boolean") {
    throw new TypeError(`Expected \`speculation\` to be true or false, got ${describeValue(speculation)}`);
  }
  if (draft === undefined) return { speculation, draft };
  if (typeof draft !== "string" || draft === "") {
    throw new TypeError(`Expected \`draft\` to name a folder or a GGUF file, got ${describeValue(draft)}`);
  }
  if (speculation) return { speculation, draft };
  throw new TypeError("Expected `draft` with `speculation` only, got it with `speculation: false`");
}

function policyOf({ expertCachePolicy: policy, expertCacheBytes }: EngineOptions): ResolvedPolicy {
  if (policy === undefined) return "belady";
  const resolved =
    functionModuleOption("expertCachePolicy", policy) ?? choiceOption("expertCachePolicy", policy, EVICTION_POLICIES);
  if (expertCacheBytes !== undefined) return resolved;
  throw new TypeError(
    "Expected `expertCachePolicy` with `expertCacheBytes` only; all experts are in memory without it",
  );
}

/** Options of `openPromptReader`; those of the engine that have to do with prompts mean the same. */
export interface PromptReaderOptions extends Pick<EngineOptions, ReaderName> {
  readonly signal?: AbortSignal | undefined;
}

type ReaderName =
  | "isolation"
  | "hungMs"
  | "threads"
  | "kernel"
  | "cacheFolder"
  | "expert"
  | "contextTokens"
  | "loras"
  | "controlTokensInMessages"
  | "samplingDefaults";

const READER_NAMES: readonly ReaderName[] = [
  "isolation",
  "hungMs",
  "threads",
  "kernel",
  "cacheFolder",
  "expert",
  "contextTokens",
  "loras",
  "controlTokensInMessages",
  "samplingDefaults",
];

/** Options of a reader of prompts, with defaults. */
export type ResolvedReaderOptions = Pick<ResolvedEngineOptions, ReaderName>;

/** Checks options and fills in defaults. @throws {TypeError | RangeError} with the option, expectation and value */
export function resolveReaderOptions(options: Pick<EngineOptions, ReaderName>): ResolvedReaderOptions {
  rejectUnknownKeys("the reader of prompts", options, READER_NAMES);
  const resolved = resolveEngineOptions(options);
  return Object.fromEntries(READER_NAMES.map((name) => [name, resolved[name]])) as unknown as ResolvedReaderOptions;
}
