// Options that several commands share.

import {
  EVICTION_POLICIES,
  samplingParametersWith,
  withSamplingDefaults,
  type EvictionPolicyName,
  type SamplingDefaults,
  type SamplingNameWith,
  type SamplingParameter,
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

type FlagName = SamplingNameWith<"flag">;

/** Flags of the commands that sample. The one of `maxTokens` has another name, that of transformers. */
export type SamplingFlags = Omit<Pick<SamplingParams, FlagName>, "maxTokens"> & { readonly maxNewTokens?: number };

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

/** Makes the option of commands that can print JSON. */
export function jsonOption(): Option {
  return new Option("--json", "print JSON").default(false);
}

export function expertOption(): Option {
  return new Option(
    "--expert <expert>",
    "`router`, or one expert for all tokens, by name or index; `none` is a dense model without a lora " +
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
  return samplingParametersWith("flag").map(([name, entry]) => {
    const isRecommended = Object.values(FALLBACKS).some((fallback) => name in fallback);
    const own = FALLBACKS[use][name as keyof SamplingDefaults] ?? entry.default;
    const { syntax, about } = entry.flag;
    return withParser(
      new Option(syntax, about + (isRecommended ? ` (default: the model's, else ${JSON.stringify(own)})` : "")),
      entry,
    );
  });
}

function withParser(option: Option, { kind, min = 0 }: SamplingParameter): Option {
  if (kind === "number") return option.argParser(anyNumber);
  if (kind === "integer") return option.argParser(wholeNumber(min));
  return kind === "biases" ? option.argParser(logitBias) : option;
}

/**
 * Turns flags into parameters. The engine checks their values.
 *
 * @param recommended - by the model's files; the command's own defaults come after them
 */
export function samplingParams(
  flags: SamplingFlags,
  use: SamplingUse,
  recommended: SamplingDefaults | undefined,
): SamplingParams {
  const given = { ...flags, maxTokens: flags.maxNewTokens };
  const params = Object.fromEntries(samplingParametersWith("flag").map(([name]) => [name, given[name]]));
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
