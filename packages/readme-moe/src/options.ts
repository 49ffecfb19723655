// Flags that several commands share, and parsers of their values.

import {
  samplingParametersWith,
  withSamplingDefaults,
  type SamplingDefaults,
  type SamplingNameWith,
  type SamplingParameter,
  type SamplingParams,
  nearestName,
} from "@readme-moe/core";
import { ENGINE_OPTIONS, type EngineOption, type EngineOptionName, type EngineOptions } from "@readme-moe/engine";
import type { Precision } from "@readme-moe/model";
import { type Command, InvalidArgumentError, Option } from "commander";

type RuntimeName = "precision" | "threads" | "cacheFolder";

/** Flags of the commands that run a model. */
export type RuntimeFlags = Pick<EngineOptions, RuntimeName>;

/** Flags of the commands that open an engine. */
export interface EngineFlags extends Omit<
  Pick<EngineOptions, FlaggedName>,
  | "contextTokens"
  | "memoryBytes"
  | "kvCacheBytes"
  | "prefixCacheBytes"
  | "prefixDiskBytes"
  | "expertCacheBytes"
  | "speculation"
> {
  readonly lora?: readonly LoraArgument[];
  readonly context?: EngineOptions["contextTokens"];
  readonly memory?: EngineOptions["memoryBytes"];
  readonly kvCache?: EngineOptions["kvCacheBytes"];
  readonly prefixCache?: EngineOptions["prefixCacheBytes"];
  readonly prefixDisk?: EngineOptions["prefixDiskBytes"];
  /** Text of a server's keys. */
  readonly prefixDiskScope?: string;
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

/** Adds options to a command, and returns it. */
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
  const { syntax, about, default: otherwise } = { default: entry.default, ...flag, ...change };
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
  const { recordTrace, speculation, prefixDiskScope } = flags;
  const given: Readonly<Record<string, unknown>> = { ...flags };
  const options = FLAGGED.map((name) => [name, given[engineFlag(name).attributeName()]]);
  // Traces are recorded without drafts.
  const speculates = recordTrace !== undefined ? false : speculation === undefined ? undefined : speculation === "on";
  return { ...Object.fromEntries(options), speculation: speculates, prefixDiskScope };
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
    ...memoryOptions(),
    engineFlag("expertCacheBytes"),
    engineFlag("expertCachePolicy"),
    engineFlag("isolation", isolation && { default: isolation }),
    engineFlag("speculation"),
    engineFlag("samplingDefaults"),
    engineFlag("draftHead"),
    new Option(
      "--record-trace <file>",
      "write the experts of all sequences, as JSON lines for `simulate --trace` (without speculation)",
    ),
  ];
}

/** Options of every command that opens an engine, for its memory besides weights. */
export function memoryOptions(): readonly Option[] {
  return [
    engineFlag("contextTokens"),
    engineFlag("memoryBytes"),
    engineFlag("kvCacheBytes"),
    engineFlag("prefixCacheBytes"),
    engineFlag("kvPrecision"),
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

type Parser<Value> = (text: string) => Value;

/** Makes a parser of numbers that meet a condition. @param expectation - completes "Expected …." */
export function numberThat(isValid: (value: number) => boolean, expectation: string): Parser<number> {
  return (text) => {
    const value = Number(text);
    if (text.trim() !== "" && Number.isFinite(value) && isValid(value)) return value;
    throw new InvalidArgumentError(`Expected ${expectation}.`);
  };
}

const anyNumber: Parser<number> = numberThat(() => true, "a number");
/** Parses a number above 0. */
export const positiveNumber: Parser<number> = numberThat((value) => value > 0, "a number above 0");

/** Makes a parser of numbers from `least` to `most`. */
export function numberBetween(least: number, most: number): Parser<number> {
  return numberThat((value) => value >= least && value <= most, `a number from ${least} to ${most}`);
}

/** Makes a parser of integers from `least` up, in digits only. */
export function wholeNumber(least: number): Parser<number> {
  return (text) => {
    const value = parseWhole(text, least);
    if (value !== undefined) return value;
    throw new InvalidArgumentError(`Expected an integer from ${least} up.`);
  };
}

/** Parses a port to listen on, for commander. */
export function portNumber(text: string): number {
  const port = parseWhole(text, 0);
  if (port !== undefined && port <= 65_535) return port;
  throw new InvalidArgumentError("Expected a port from 0 to 65535.");
}

/** Parses an integer from `least` up; `undefined` for anything else. */
export function parseWhole(text: string, least: number): number | undefined {
  const value = Number(text);
  return /^\d+$/.test(text) && value >= least && Number.isSafeInteger(value) ? value : undefined;
}

/** Makes a parser of values that are separated by commas. @param expectation - completes "Expected …." */
export function listOf<Value>(parse: (part: string) => Value | undefined, expectation: string): Parser<Value[]> {
  return (text) =>
    text.split(",").map((part) => {
      const value = parse(part.trim());
      if (value !== undefined) return value;
      throw new InvalidArgumentError(`Expected ${expectation}.`);
    });
}

/** Makes a parser of known names that are separated by commas; each is taken once. */
export function namesOf<Name extends string>(known: readonly Name[]): Parser<Name[]> {
  return (text) => {
    const names = text.split(",").map((part) => {
      const found = known.find((one) => one === part.trim());
      if (found !== undefined) return found;
      const near = nearestName(part.trim(), known);
      const hint = near === undefined ? "" : ` Did you mean ${near}?`;
      throw new InvalidArgumentError(`Expected names of ${known.join(", ")}, separated by commas.${hint}`);
    });
    return [...new Set(names)];
  };
}

const UNITS: Readonly<Record<string, number>> = {
  "": 1,
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  KIB: 2 ** 10,
  MIB: 2 ** 20,
  GIB: 2 ** 30,
};

/** Parses `150MB`, `1.5GiB` or `100000000` into whole bytes; `undefined` for anything else. */
export function parseBytes(text: string): number | undefined {
  const [, number = "", unit = ""] = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text) ?? [];
  const bytes = Math.floor(Number(number) * (UNITS[unit.toUpperCase()] ?? NaN));
  return number !== "" && Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** Parses a size in bytes, such as `150MB`, for commander. */
export function byteSize(text: string): number {
  const bytes = parseBytes(text.trim());
  if (bytes !== undefined) return bytes;
  throw new InvalidArgumentError("Expected a size, such as 150MB, 64MiB or 100000000.");
}

/** One `[NAME=]FOLDER` of the command line. */
export interface LoraArgument {
  readonly name: string | undefined;
  /** Folder, or id of the hub. */
  readonly source: string;
}

export function loraOption(): Option {
  return new Option(
    "--lora <name=folder>",
    "adapter in PEFT's layout, or set of experts, over a dense model; may be repeated, and `name=` left out",
  ).argParser(loraArgument);
}

/** Parses `NAME=FOLDER` or a folder, for commander's repeated options. */
function loraArgument(text: string, previous: readonly LoraArgument[] = []): readonly LoraArgument[] {
  const [, name, source = text] = /^([^=/\\]*)=(.*)$/s.exec(text) ?? [];
  if (name === "" || source === "")
    throw new InvalidArgumentError("Expected NAME=FOLDER, such as legal=adapters/legal.");
  return [...previous, { name, source }];
}

/** Flags of a front. */
export interface FleetFlags {
  /** URL of the fleet's Valkey or Redis; may hold a password. */
  readonly fleet?: string | undefined;
}

/** Creates the option that names a fleet. Its value may hold a password, so no message shows it. */
export function fleetOption(description: string): Option {
  return new Option("--fleet <url>", `${description}; better set the environment variable, others can see it here`).env(
    "README_MOE_FLEET",
  );
}

/** Creates the option that names what the machines of a refactoring or training share. */
export function artefactsOption(): Option {
  return new Option(
    "--artefacts <place>",
    "what the machines share: a folder, or s3://bucket/prefix with AWS_ENDPOINT_URL and keys in the environment",
  );
}
