// Options that several commands share.

import {
  samplingParametersWith,
  withSamplingDefaults,
  type SamplingDefaults,
  type SamplingNameWith,
  type SamplingParameter,
  type SamplingParams,
} from "@readme-moe/core";
import { ENGINE_OPTIONS, type EngineOption, type EngineOptionName, type EngineOptions } from "@readme-moe/engine";
import type { Precision } from "@readme-moe/model";
import { type Command, InvalidArgumentError, Option } from "commander";
import { type LoraArgument, loraOption } from "./loras/lora-option.ts";
import { anyNumber, byteSize, wholeNumber } from "./option-values.ts";

type RuntimeName = "precision" | "threads" | "cacheFolder";

/** Flags of the commands that run a model. */
export type RuntimeFlags = Pick<EngineOptions, RuntimeName>;

/** Flags of the commands that open an engine. */
export interface EngineFlags extends Omit<
  Pick<EngineOptions, FlaggedName>,
  "contextTokens" | "expertCacheBytes" | "speculation"
> {
  readonly lora?: readonly LoraArgument[];
  readonly context?: EngineOptions["contextTokens"];
  readonly expertCache?: EngineOptions["expertCacheBytes"];
  readonly speculation?: "on" | "off";
  /** Path of the trace. */
  readonly recordTrace?: string;
}

type FlaggedName = {
  [Name in EngineOptionName]: (typeof ENGINE_OPTIONS)[Name] extends { readonly flag: object } ? Name : never;
}[EngineOptionName];

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

/** Makes the flag of an option of the engine. @param change - what a command says otherwise */
export function engineFlag(
  name: FlaggedName,
  change: { readonly about?: string; readonly default?: string | undefined } = {},
): Option {
  const { flag, ...entry }: EngineOption = ENGINE_OPTIONS[name];
  const { syntax, about, default: otherwise } = { ...flag, ...change };
  const option = new Option(syntax, otherwise === undefined ? about : `${about} (default: ${otherwise})`);
  if (entry.kind === "choice") return option.choices(entry.choices ?? []);
  if (entry.kind === "switch") return option.choices(["on", "off"]);
  if (entry.kind !== "integer") return option;
  return option.argParser(syntax.endsWith("<size>") ? byteSize : wholeNumber(entry.min ?? 0));
}

/** Options of every command that runs a model. @param precision - the command's default @default that of the model */
export function runtimeOptions(precision?: Precision): readonly Option[] {
  return [
    precision === undefined
      ? engineFlag("precision")
      : engineFlag("precision", { default: undefined }).default(precision),
    engineFlag("threads"),
    engineFlag("cacheFolder"),
  ];
}

/** Returns the options of the engine that a command's flags have. @param names - of the wanted ones @default all */
export function engineOptionsOf(flags: EngineFlags): EngineOptions {
  const { recordTrace, speculation } = flags;
  const given: Readonly<Record<string, unknown>> = { ...flags };
  const options = FLAGGED.map((name) => [name, given[engineFlag(name).attributeName()]]);
  // Traces are recorded without drafts.
  const speculates = recordTrace !== undefined ? false : speculation === undefined ? undefined : speculation === "on";
  return { ...Object.fromEntries(options), speculation: speculates };
}

const FLAGGED = (Object.keys(ENGINE_OPTIONS) as readonly EngineOptionName[]).filter(
  (name) => "flag" in ENGINE_OPTIONS[name],
) as readonly FlaggedName[];

/** Formats example calls for the end of a help text. */
export function examples(...calls: readonly string[]): string {
  return ["", "Examples:", ...calls.map((call) => `  ${call}`)].join("\n");
}

/** Options of every command that generates with a router and streamed experts. @param isolation - its default */
export function engineOptions(isolation?: "thread" | "process"): readonly Option[] {
  return [
    engineFlag("expert"),
    loraOption(),
    ...runtimeOptions(),
    engineFlag("contextTokens"),
    engineFlag("expertCacheBytes"),
    engineFlag("expertCachePolicy"),
    engineFlag("isolation", isolation && { default: isolation }),
    engineFlag("speculation"),
    engineFlag("samplingDefaults"),
    engineFlag("draft"),
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
