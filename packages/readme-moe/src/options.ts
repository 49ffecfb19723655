// Options that several commands share.

import {
  EVICTION_POLICIES,
  withSamplingDefaults,
  type EvictionPolicyName,
  type SamplingDefaults,
  type SamplingParams,
} from "@readme-moe/core";
import type { Precision } from "@readme-moe/model";
import { type Command, InvalidArgumentError, Option } from "commander";
import { type LoraArgument, loraOption } from "./low-rank/lora-option.ts";
import { anyNumber, byteSize, wholeNumber } from "./option-values.ts";

export interface RuntimeFlags {
  /** Absent: that of the model's file, see `precisionOf`. */
  readonly precision?: Precision;
  readonly threads?: number;
  readonly cacheFolder?: string;
}

/** Flags of the commands that open an engine. */
export interface EngineFlags extends RuntimeFlags {
  readonly expert?: string;
  readonly lora?: readonly LoraArgument[];
  readonly isolation?: "thread" | "process";
  /** Largest number of tokens of a sequence. */
  readonly context?: number;
  /** Memory for streamed experts, in bytes. */
  readonly expertCache?: number;
  readonly expertCachePolicy?: EvictionPolicyName;
  readonly controlTokensInMessages?: "text" | "control";
  readonly speculation?: "on" | "off";
  readonly samplingDefaults?: "model" | "none";
  /** Name of the model that drafts tokens. */
  readonly draft?: string;
  /** Path of the trace. */
  readonly recordTrace?: string;
}

export interface SamplingFlags {
  readonly maxNewTokens?: number;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  readonly presencePenalty?: number;
  readonly frequencyPenalty?: number;
  readonly logitBias?: Readonly<Record<number, number>>;
  readonly seed?: number;
  readonly stop?: readonly string[];
}

export function addOptions(command: Command, ...options: readonly Option[]): Command {
  for (const option of options) command.addOption(option);
  return command;
}

/**
 * Refuses a call without this option. Commander checks its own required options before unknown ones, and would report a
 * misspelt option as a missing one.
 */
export function requireOption(command: Command, name: string): void {
  if (command.getOptionValue(name) === undefined) command.error(`error: required option '--${name}' not specified`);
}

/** Options of every command that runs a model. @param precision - the command's default @default that of the model */
export function runtimeOptions(precision?: Precision): readonly Option[] {
  const explanation = "precision of weights and products";
  return [
    precision === undefined
      ? precisionOption(`${explanation} (default: file for a model in blocks, else int8)`)
      : precisionOption(explanation).default(precision),
    new Option("--threads <n>", "threads that compute (default: all cores)").argParser(wholeNumber(1)),
    cacheFolderOption(),
  ];
}

/** Option of a precision, without a default. */
export function precisionOption(explanation: string): Option {
  return new Option("--precision <precision>", explanation).choices(["file", "fp32", "int8", "int4"]);
}

export function cacheFolderOption(): Option {
  const explanation = "folder of packed weights (default: $README_MOE_CACHE, else the user's cache)";
  return new Option("--cache-folder <dir>", explanation);
}

/** Formats example calls for the end of a help text. */
export function examples(...calls: readonly string[]): string {
  return ["", "Examples:", ...calls.map((call) => `  ${call}`)].join("\n");
}

/** Options of every command that generates with a router and streamed experts. */
export function engineOptions(isolation?: "thread" | "process"): readonly Option[] {
  return [
    expertOption(),
    loraOption(),
    ...runtimeOptions(),
    new Option(
      "--context <tokens>",
      "most tokens of a prompt and its completion (default: the model's, or what fits into memory)",
    ).argParser(wholeNumber(2)),
    new Option(
      "--expert-cache <size>",
      "memory for experts' weights, such as 150MB; the other experts are read when needed",
    ).argParser(byteSize),
    new Option(
      "--expert-cache-policy <name>",
      "policy that chooses which expert's weights are evicted, with --expert-cache (default: belady)",
    ).choices(EVICTION_POLICIES),
    isolationOption(isolation),
    new Option(
      "--speculation <switch>",
      "whether steps also run tokens that are likely to follow, which saves time and changes no token (default: on)",
    ).choices(["on", "off"]),
    samplingDefaultsOption(),
    new Option(
      "--draft <model>",
      "a small model with the same vocabulary that drafts tokens for --speculation (default: none)",
    ),
    new Option(
      "--record-trace <file>",
      "write the experts of all sequences, as JSON lines for `simulate --trace` (without speculation)",
    ),
  ];
}

export function jsonOption(): Option {
  return new Option("--json", "print JSON").default(false);
}

export function expertOption(): Option {
  return new Option(
    "--expert <expert>",
    "`router`, or one expert for all tokens, by name or index; `none` is a dense model without a low-rank expert " +
      "(default: the router, if the model has one)",
  );
}

export function samplingDefaultsOption(): Option {
  const explanation =
    "whether sampling parameters that are not given come from the model's files, such as generation_config.json " +
    "(default: model)";
  return new Option("--sampling-defaults <source>", explanation).choices(["model", "none"]);
}

export function isolationOption(otherwise: "thread" | "process" = "process"): Option {
  const explanation = `run the model in a process of its own, or in a thread of this one (default: ${otherwise})`;
  return new Option("--isolation <where>", explanation).choices(["thread", "process"]);
}

export function controlTokensOption(): Option {
  const explanation =
    "how messages are read that spell control tokens, such as <|im_end|>: as text or as control tokens (default: text)";
  return new Option("--control-tokens-in-messages <kind>", explanation).choices(["text", "control"]);
}

/** Commands that sample. */
type SamplingUse = "generate" | "chat" | "answer";

/** Parameters of the commands that sample, for models whose files recommend none. */
const FALLBACKS: Readonly<Record<SamplingUse, SamplingDefaults>> = {
  generate: { temperature: 0, maxTokens: 128 },
  // Measured: docs/how-to/choose-sampling.md.
  chat: { temperature: 0.3, minP: 0.05, repetitionPenalty: 1.1, maxTokens: 1024 },
  answer: { temperature: 0.8, maxTokens: 256 },
};

/** Options of `generate`, `chat` and `answer`, named as in the APIs of OpenAI and transformers. */
export function samplingOptions(use: SamplingUse): readonly Option[] {
  return [
    new Option(
      "--max-new-tokens <n>",
      `most tokens to add (default: the model's, else ${FALLBACKS[use].maxTokens})`,
    ).argParser(wholeNumber(1)),
    new Option(
      "--temperature <t>",
      `randomness; 0 always takes the most likely token (default: the model's, else ${FALLBACKS[use].temperature})`,
    ).argParser(anyNumber),
    new Option("--top-k <n>", "sample from the n most likely tokens; 0 for all").argParser(wholeNumber(0)),
    new Option("--top-p <p>", "sample from the most likely tokens that together have this probability").argParser(
      anyNumber,
    ),
    new Option(
      "--min-p <p>",
      `drop tokens less likely than p times the most likely one (default: the model's, else ${FALLBACKS[use].minP ?? 0})`,
    ).argParser(anyNumber),
    new Option(
      "--repetition-penalty <x>",
      `above 1 makes earlier tokens less likely (default: the model's, else ${FALLBACKS[use].repetitionPenalty ?? 1})`,
    ).argParser(anyNumber),
    new Option("--presence-penalty <x>", "subtracted once from the logits of tokens in the completion").argParser(
      anyNumber,
    ),
    new Option("--frequency-penalty <x>", "subtracted for each time that a token is in the completion").argParser(
      anyNumber,
    ),
    new Option("--logit-bias <id=bias...>", "added to the logits of tokens, such as 42=-100").argParser(logitBias),
    new Option("--seed <n>", "makes sampling repeatable").argParser(wholeNumber(0)),
    new Option("--stop <text...>", "end before any of these texts"),
  ];
}

/**
 * Turns flags into parameters; the compiler checks that none is missing. The engine checks their values.
 *
 * @param recommended - by the model's files; the command's own defaults come after them
 */
export function samplingParams(
  flags: SamplingFlags,
  use: SamplingUse,
  recommended: SamplingDefaults | undefined,
): SamplingParams {
  const { maxNewTokens: maxTokens, temperature, topK, topP, minP, repetitionPenalty } = flags;
  const { presencePenalty, frequencyPenalty, logitBias: bias, seed, stop } = flags;
  const penalties = { repetitionPenalty, presencePenalty, frequencyPenalty };
  const params = { maxTokens, temperature, topK, topP, minP, ...penalties, logitBias: bias, seed, stop };
  params satisfies Record<Exclude<keyof SamplingFlags, "maxNewTokens"> | "maxTokens", unknown>;
  // A temperature of the model's is meant for the distribution that its own files describe.
  const { minP: _, repetitionPenalty: __, ...own } = FALLBACKS[use];
  const fallback = recommended?.temperature === undefined ? FALLBACKS[use] : own;
  return withSamplingDefaults<SamplingParams>(params, { ...fallback, ...recommended });
}

function logitBias(text: string, before: Readonly<Record<number, number>> = {}): Readonly<Record<number, number>> {
  const [, id, bias] = /^(\d+)=(-?\d+(?:\.\d+)?)$/.exec(text) ?? [];
  if (id === undefined) throw new InvalidArgumentError("Expected id=bias, such as 42=-100.");
  return { ...before, [Number(id)]: Number(bias) };
}
