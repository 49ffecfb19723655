// The table of an engine's options. Their types, checks, flags and docs follow from it, and the options of a reader of
// prompts. What two options have to do with each other is checked below.

import { resolve } from "node:path";
import {
  type CheckedOf,
  checkedTable,
  costAware,
  EVICTION_POLICIES,
  fcfs,
  integerOption,
  MAX_TIMER_MS,
  type OptionsOf,
  readMe,
  rejectUnknownKeys,
  type Scheduler,
  type TableOption,
} from "@readme-moe/core";
import { KV_BLOCK_TOKENS, KV_PRECISIONS } from "@readme-moe/kernel";
import {
  type FunctionModule,
  functionModuleOption,
  importFunction,
  type ResolvedFunctionModule,
} from "./function-module.ts";

/** An option of the engine: its values, and its flag on the command line. */
export interface EngineOption extends TableOption {
  /** Whether a reader of prompts has the option, too. */
  readonly reader?: true;
  /** Flag of the commands that run a model; its default in words where that of the option does not say it. */
  readonly flag?: { readonly syntax: string; readonly about: string; readonly default?: string };
}

/** The table of the engine's options. The defaults of sizes depend on the model. */
export const ENGINE_OPTIONS = {
  /**
   * Whether the model runs in a process of its own or in a thread of this one. A crash of native code ends its
   * process, and all memory returns to the system only when the process ends: after twenty models were opened and
   * disposed in threads, their process held six times as much memory as after the first.
   * @default "process"
   */
  isolation: {
    kind: "choice",
    choices: ["process", "thread"],
    default: "process",
    reader: true,
    flag: {
      syntax: "--isolation <where>",
      about: "run the model in a process of its own, or in a thread of this one",
    },
  },
  /**
   * Longest time without a sign of life from the engine while an answer is awaited, in ms. The engine gives one between
   * two steps; ten of its longest steps are always allowed, and opening a model may take five times as long. An engine
   * that is silent for longer hangs: it is ended, and its requests end with `ERR_ENGINE_FAILED`. A thread that hangs in
   * native code cannot be ended. Time in which this process is suspended does not count.
   * @default 60,000
   */
  hungMs: {
    kind: "integer",
    min: 1,
    max: MAX_TIMER_MS,
    default: 60_000,
    reader: true,
    flag: {
      syntax: "--hung-ms <ms>",
      about: "time without a sign of life after which an engine counts as hung and is ended",
    },
  },
  /**
   * Precision of products. "file" takes the blocks of a GGUF file, or of safetensors in MXFP4, as they are; "fp32" has
   * PyTorch's numbers; "int8" takes a quarter of the memory, is faster, and loses some thousandths of a nat.
   * @default "file" for a model in blocks, else "int8"
   */
  precision: {
    kind: "choice",
    choices: ["fp32", "int8", "int4", "file"],
    flag: {
      syntax: "--precision <precision>",
      about: "precision of weights and products",
      default: "file for a model in blocks, else int8",
    },
  },
  /** Number of computing threads. @default all physical cores, within the control groups' shares of time */
  threads: {
    kind: "integer",
    min: 1,
    max: 1024,
    reader: true,
    flag: { syntax: "--threads <n>", about: "threads that compute", default: "all cores" },
  },
  /**
   * Build of the kernel that runs the model and its router: the addon of this platform, or WebAssembly.
   * @default `README_MOE_KERNEL`, else the addon if there is one that loads
   */
  kernel: { kind: "choice", choices: ["native", "wasm"], reader: true },
  /**
   * Number type of keys and values; fp16 takes half of the memory of fp32, int8 a quarter and a scale for each head.
   * @default "fp32" with fp32 weights, else "fp16"
   */
  kvPrecision: {
    kind: "choice",
    choices: KV_PRECISIONS,
    flag: {
      syntax: "--kv-precision <precision>",
      about: "precision of keys and values; int8 holds almost twice as many tokens as fp16, at a small loss",
      default: "fp32 with fp32 weights, else fp16",
    },
  },
  /** Folder of packed weights. @default `README_MOE_CACHE`, else the platform's cache folder */
  cacheFolder: {
    kind: "path",
    names: "a folder",
    reader: true,
    flag: {
      syntax: "--cache-folder <dir>",
      about: "folder of packed weights",
      default: "$README_MOE_CACHE, else the user's cache",
    },
  },
  /** Expert for requests that name none, by name or index. @default the model's router chooses, if it has one */
  expert: {
    kind: "expert",
    reader: true,
    flag: {
      syntax: "--expert <expert>",
      about: "`router`, or one expert for all tokens, by name or index; `none` is a dense model without a lora",
      default: "the router, if the model has one",
    },
  },
  /** Largest number of sequences that hold KV memory, 1 to 1,024. @default 32 */
  maxNumSeqs: {
    kind: "integer",
    min: 1,
    max: 1024,
    default: 32,
    flag: { syntax: "--max-num-seqs <n>", about: "sequences that hold memory at once" },
  },
  /** Largest number of sequences in one step, up to `maxNumSeqs`. @default `maxNumSeqs` */
  maxNumBatchedSeqs: { kind: "integer", min: 1 },
  /**
   * Largest number of tokens in one step, from `chunkTokens`.
   * @default 512; up to 2,048 if a mixture's experts are not all in memory
   */
  maxNumBatchedTokens: { kind: "integer", min: 1, max: 65_536 },
  /**
   * Number of prompt tokens that run at once, a multiple of 64; it bounds the wait of other sequences. If a mixture's
   * experts are not all in memory, as many chunks of a prompt run at once as `maxNumBatchedTokens` has room for.
   * @default 128
   */
  chunkTokens: { kind: "integer", min: KV_BLOCK_TOKENS, max: 4096, default: 128 },
  /**
   * Largest number of tokens of a sequence, prompt and completion together. Models with LongRoPE (Phi-3) have other
   * numbers in contexts longer than their original one.
   * @default the model's, at most 32,768, or what fits into the planned memory if that is less
   */
  contextTokens: {
    kind: "integer",
    min: 2,
    reader: true,
    flag: {
      syntax: "--context <tokens>",
      about: "most tokens of a prompt and its completion",
      default: "the model's, at most 32768, or what fits into memory",
    },
  },
  /**
   * Memory of the engine's process, all together: weights, the process itself, keys and values, prefixes. What is not
   * given of `contextTokens`, `kvCacheBytes` and `prefixCacheBytes` is planned within it.
   * @default keys, values and prefixes take at most half of the memory that is free beside the rest, or 640 MiB
   */
  memoryBytes: {
    kind: "integer",
    min: 1,
    flag: {
      syntax: "--memory <size>",
      about: "memory of the model's process, such as 6GB: context, keys and values, and prefixes are planned within it",
      default: "half of what is free beside the weights",
    },
  },
  /**
   * Memory for keys and values of running sequences.
   * @default two sequences of the whole context, or 512 MiB if that is more, as far as memory allows
   */
  kvCacheBytes: {
    kind: "integer",
    min: 1,
    flag: {
      syntax: "--kv-cache <size>",
      about: "memory for keys and values of running requests, such as 2GB",
      default: "two conversations of the whole context, as far as memory allows",
    },
  },
  /**
   * Memory for keys and values of prompt prefixes alone, which are reused; they also take what no sequence needs.
   * @default a quarter of `kvCacheBytes` where that is given, else 35,840 tokens as far as memory allows
   */
  prefixCacheBytes: {
    kind: "integer",
    min: 0,
    flag: {
      syntax: "--prefix-cache <size>",
      about: "memory for keys and values of prompts' beginnings, which later prompts reuse",
      default: "a quarter of --kv-cache, else 35840 tokens as far as memory allows",
    },
  },
  /**
   * Largest size of the beginnings of prompts that are kept on disk, in the cache folder: of prompts of 256 tokens and
   * more, what was evicted from memory, and what is there when the engine has nothing to do or closes. Later prompts
   * read them instead of computing them, also in another process. They take at most a quarter of the free disk; those
   * that were not used for longest are removed. 0 keeps none. @default 0; `serve` has 4 GB
   */
  prefixDiskBytes: {
    kind: "integer",
    min: 0,
    default: 0,
    flag: {
      syntax: "--prefix-disk <size>",
      about:
        "most disk for keys and values of prompts' beginnings, which later prompts read, also after a restart; 0 for none",
    },
  },
  /**
   * Text that keeps these files apart from those of other servers, whose clients are others. With a `cacheSalt` they
   * belong to this text and the salt. @default none
   */
  prefixDiskScope: { kind: "text", default: "" },
  /**
   * Folder for the keys and values of prompts that are kept (`ReadMeEngine.keepPrompt`): the next engine with the same
   * model reads them instead of computing them, also on another machine. @default kept prompts are not saved
   */
  savedPromptsFolder: {
    kind: "path",
    names: "a folder",
    flag: {
      syntax: "--saved-prompts-folder <dir>",
      about: "folder where kept prompts are saved, so that the next start reads them",
    },
  },
  /** Largest size of these files together; those that were not used for longest are removed. @default 1 GiB */
  savedPromptsBytes: {
    kind: "integer",
    min: 1,
    default: 2 ** 30,
    flag: {
      syntax: "--saved-prompts-bytes <size>",
      about: "most bytes of saved prompts together",
      default: "1GiB",
    },
  },
  /**
   * Largest number of bytes of experts' weights in memory, reads in progress included. The other experts are read when
   * they are needed. At least one layer of all experts; of a mixture with a router in every layer, a token's experts in
   * one layer. @default all experts are in memory
   */
  expertCacheBytes: {
    kind: "integer",
    min: 1,
    flag: {
      syntax: "--expert-cache <size>",
      about: "memory for experts' weights, such as 150MB; the other experts are read when needed",
    },
  },
  /**
   * Policy that chooses which expert's weights are evicted, or a function of your own, core's `EvictionPolicy`, that a
   * module exports. Only with `expertCacheBytes`. @default "belady"
   */
  expertCachePolicy: {
    kind: "choice",
    choices: EVICTION_POLICIES,
    orModule: true,
    default: "belady",
    flag: {
      syntax: "--expert-cache-policy <name>",
      about: "policy that chooses which expert's weights are evicted, with --expert-cache",
    },
  },
  /**
   * Loras (LoRA adapters in PEFT's layout) of a dense model, beside those of its folder: folders by name. A
   * folder is an adapter, or an expert set, whose experts have names of their own. @default none
   */
  loras: { kind: "folders", reader: true },
  /** Number type of loras in memory. @default "fp32" with fp32 weights, else "int8" */
  loraPrecision: { kind: "choice", choices: ["fp32", "fp16", "int8"] },
  /**
   * Meaning of spellings of control tokens, such as `<|im_end|>`, in the messages of a chat and in the other values of
   * its template. "text": they are plain text. "control": they are the control tokens, with which a user can end a
   * turn or write a system message. In prompts that are plain texts they are always control tokens. @default "text"
   */
  controlTokensInMessages: {
    kind: "choice",
    choices: ["text", "control"],
    default: "text",
    reader: true,
    flag: {
      syntax: "--control-tokens-in-messages <kind>",
      about: "how messages are read that spell control tokens, such as <|im_end|>: as text or as control tokens",
    },
  },
  /**
   * Whether steps also run tokens that are likely to follow, drafted from the prompt, the answer so far, predictions
   * and grammars. Right drafts save steps; wrong ones are dropped. Tokens and log-probabilities stay the same.
   * @default true
   */
  speculation: {
    kind: "switch",
    default: true,
    flag: {
      syntax: "--speculation <switch>",
      about: "whether steps also run tokens that are likely to follow, which saves time and changes no token",
      default: "on",
    },
  },
  /**
   * Folder of a trained head that drafts tokens from the model's own states, or "none". Not without `speculation`.
   * @default `draft-head` in the model's folder, or `NAME.draft-head` by the file `NAME.gguf`, if it is there; else the
   *   checkpoint's own layer that predicts a further token, if it has one
   */
  draftHead: {
    kind: "path",
    names: "a folder, or none",
    flag: {
      syntax: "--draft-head <folder>",
      about: "a trained head that drafts tokens for --speculation, or none",
      default: "the one beside the model, else the model's own",
    },
  },
  /**
   * Whether requests take what they leave out from the model's files: the sampling parameters of
   * generation_config.json, or `general.sampling` of a GGUF file. @default "model"
   */
  samplingDefaults: {
    kind: "choice",
    choices: ["model", "none"],
    default: "model",
    reader: true,
    flag: {
      syntax: "--sampling-defaults <source>",
      about:
        "whether sampling parameters that are not given come from the model's files, such as generation_config.json",
    },
  },
  /** Largest number of requests in progress; more are rejected with `ERR_QUEUE_FULL`. @default 1,024 */
  maxNumRequests: { kind: "integer", min: 1, default: 1024 },
  /**
   * Scheduler: "cost-aware" makes the most of the predicted time of a step; "read-me" runs whole expert queues, the
   * longest first (Read-ME, Algorithm 1); "fcfs" is first come, first served. Or a function of your own, core's
   * `Scheduler`, that a module exports.
   * @default "cost-aware", or "fcfs" with `prefillShare`
   */
  scheduler: { kind: "choice", choices: ["fcfs", "read-me", "cost-aware"], orModule: true },
  /**
   * Share of a step that prefill may take while other sequences decode, from 0 (decode first) to 1 (prefill first), or
   * "by-arrival" for no preference. Only for `"fcfs"`. @default "by-arrival"
   */
  prefillShare: { kind: "number", choices: ["by-arrival"], max: 1 },
  /**
   * Longest time in ms that a sequence may be left out of steps before it goes first, from 0. No wait exceeds this by
   * more than one step for each sequence that holds KV memory. @default 500, with `"fcfs"` Infinity
   */
  maxDelayMs: { kind: "number", max: Infinity },
  /**
   * Longest predicted time in ms of a step with prefill while other sequences decode, from 1. Only for `"cost-aware"`.
   * @default 250
   */
  maxStepMs: { kind: "number", min: 1, max: Infinity },
} as const;

type Table = typeof ENGINE_OPTIONS;

/** Name of an option of the engine. */
export type EngineOptionName = keyof Table;

/** Options of an engine. The defaults of sizes depend on the model. */
export type EngineOptions = OptionsOf<Table, FunctionModule>;

type CheckedOptions = CheckedOf<Table, ResolvedFunctionModule>;

type Given<Name extends EngineOptionName> = Exclude<CheckedOptions[Name], undefined>;

/** Options with all defaults that do not depend on the model. */
export interface ResolvedEngineOptions extends CheckedOptions {
  readonly maxNumBatchedSeqs: number;
  readonly scheduler: Given<"scheduler">;
}

/** Checks options one by one, and fills in the defaults of the table. @throws {TypeError | RangeError} */
function checkedOptions<Name extends EngineOptionName>(
  options: EngineOptions,
  names: readonly Name[],
): Pick<CheckedOptions, Name> {
  const table = Object.fromEntries(names.map((name) => [name, ENGINE_OPTIONS[name]]));
  return checkedTable(table, options, functionModuleOption) as unknown as Pick<CheckedOptions, Name>;
}

const NAMES = Object.keys(ENGINE_OPTIONS) as readonly EngineOptionName[];

/** Checks options and fills in defaults. @throws {TypeError | RangeError} with the option, expectation and value */
export function resolveEngineOptions(options: EngineOptions): ResolvedEngineOptions {
  rejectUnknownKeys("the engine", options, NAMES);
  const checked = checkedOptions(options, NAMES);
  const { maxNumSeqs, maxNumBatchedSeqs = maxNumSeqs, maxNumBatchedTokens, chunkTokens, savedPromptsFolder } = checked;
  if (chunkTokens % KV_BLOCK_TOKENS !== 0) {
    throw new RangeError(`Expected \`chunkTokens\` to be a multiple of ${KV_BLOCK_TOKENS}, got \`${chunkTokens}\``);
  }
  checkTogether(options);
  return {
    ...checked,
    ...resolveSchedulingOptions(options),
    maxNumBatchedSeqs: integerOption("maxNumBatchedSeqs", maxNumBatchedSeqs, 1, maxNumSeqs),
    maxNumBatchedTokens:
      maxNumBatchedTokens &&
      integerOption("maxNumBatchedTokens", maxNumBatchedTokens, chunkTokens, ENGINE_OPTIONS.maxNumBatchedTokens.max),
    savedPromptsFolder: savedPromptsFolder === undefined ? undefined : resolve(savedPromptsFolder),
  };
}

/** Refuses options that have no effect without another one. @throws {TypeError} */
function checkTogether(options: EngineOptions): void {
  const { savedPromptsFolder, savedPromptsBytes, draftHead, speculation, expertCachePolicy, expertCacheBytes } =
    options;
  if (savedPromptsBytes !== undefined && savedPromptsFolder === undefined) {
    throw new TypeError("Expected `savedPromptsBytes` with `savedPromptsFolder` only");
  }
  if (draftHead !== undefined && draftHead !== "none" && speculation === false) {
    throw new TypeError("Expected `draftHead` with `speculation` only, got it with `speculation: false`");
  }
  if (expertCachePolicy !== undefined && expertCacheBytes === undefined) {
    throw new TypeError(
      "Expected `expertCachePolicy` with `expertCacheBytes` only; all experts are in memory without it",
    );
  }
}

type SchedulingName = "scheduler" | "prefillShare" | "maxDelayMs" | "maxStepMs";
type SchedulerName = Extract<EngineOptions["scheduler"], string>;

/** Options of the scheduler. */
export type SchedulingOptions = Pick<EngineOptions, SchedulingName>;

/** Checked options; missing ones have the defaults of the scheduler. */
export type ResolvedSchedulingOptions = Pick<ResolvedEngineOptions, SchedulingName>;

/** The schedulers that take each option. */
const SCHEDULERS_OF = {
  prefillShare: ["fcfs"],
  maxDelayMs: ["cost-aware", "read-me", "fcfs"],
  maxStepMs: ["cost-aware"],
} as const satisfies Partial<Record<SchedulingName, readonly SchedulerName[]>>;

/** Checks options. @throws {TypeError | RangeError} with the option, expectation and value */
export function resolveSchedulingOptions(options: SchedulingOptions): ResolvedSchedulingOptions {
  const checked = checkedOptions(options, ["scheduler", "prefillShare", "maxDelayMs", "maxStepMs"]);
  const { scheduler = checked.prefillShare === undefined ? "cost-aware" : "fcfs" } = checked;
  for (const [name, schedulers] of Object.entries(SCHEDULERS_OF)) {
    const value = checked[name as SchedulingName];
    if (value === undefined || schedulers.some((one) => one === scheduler)) continue;
    const known = schedulers.map((one) => `"${one}"`).join(", ");
    const got = typeof scheduler === "string" ? `"${scheduler}"` : "a function of your own";
    throw new TypeError(`Expected \`${name}\` with the scheduler ${known} only, got it with ${got}`);
  }
  return { ...checked, scheduler };
}

/** Creates the scheduler. @throws {ReadMeError} `ERR_MODULE` if it is a module's function and cannot be imported */
export async function schedulerOf(options: ResolvedSchedulingOptions): Promise<Scheduler> {
  const { scheduler } = options;
  if (typeof scheduler !== "string") return importFunction<Scheduler>(scheduler);
  return { fcfs, "read-me": readMe, "cost-aware": costAware }[scheduler](options);
}

type ReaderName = {
  [Name in EngineOptionName]: Table[Name] extends { readonly reader: true } ? Name : never;
}[EngineOptionName];

/** Options of `openPromptReader`; those of the engine that have to do with prompts mean the same. */
export interface PromptReaderOptions extends Pick<EngineOptions, ReaderName> {
  readonly signal?: AbortSignal | undefined;
}

const READER_NAMES = NAMES.filter((name) => "reader" in ENGINE_OPTIONS[name]) as readonly ReaderName[];

/** Returns the options of an engine that a reader of prompts has, too. */
export function readerOptionsOf(options: EngineOptions): Pick<EngineOptions, ReaderName> {
  return Object.fromEntries(READER_NAMES.map((name) => [name, options[name]]));
}

/** Options of a reader of prompts, with defaults. */
export type ResolvedReaderOptions = Pick<ResolvedEngineOptions, ReaderName>;

/** Checks options and fills in defaults. @throws {TypeError | RangeError} with the option, expectation and value */
export function resolveReaderOptions(options: Pick<EngineOptions, ReaderName>): ResolvedReaderOptions {
  rejectUnknownKeys("the reader of prompts", options, READER_NAMES);
  return checkedOptions(options, READER_NAMES);
}
