// Options that several commands have, spelled and checked alike.

import type { Precision } from "@readme-moe/model";
import { type Command, InvalidArgumentError, Option } from "commander";
import { parseBytes } from "./byte-size.ts";

export interface RuntimeFlags {
  readonly precision: Precision;
  readonly threads?: number;
  readonly cacheFolder?: string;
}

/** Options of every command that runs a model. */
export function runtimeOptions(): readonly Option[] {
  return [
    new Option("--precision <precision>", "numbers that weights and products are held in")
      .choices(["fp32", "int8", "int4"])
      .default("fp32"),
    new Option("--threads <n>", "threads that compute (default: all cores)").argParser(wholeNumber(1)),
    new Option(
      "--cache-folder <dir>",
      "where packed weights are kept (default: $README_MOE_CACHE, else the user's cache)",
    ),
  ];
}

export function jsonOption(): Option {
  return new Option("--json", "print JSON").default(false);
}

export function expertOption(): Option {
  return new Option(
    "--expert <expert>",
    "`router`, or one expert for all tokens, by name or index (default: the router, where the model has one)",
  );
}

export function expertCacheOption(): Option {
  const explanation =
    "memory for experts' weights, such as 150MB; the others are read when needed (in int8 unless --precision is given)";
  return new Option("--expert-cache <size>", explanation).argParser(byteSize).implies({ precision: "int8" });
}

/** A parser of `150MB`, for commander. */
export function byteSize(text: string): number {
  const bytes = parseBytes(text.trim());
  if (bytes !== undefined) return bytes;
  throw new InvalidArgumentError("Expected a size, such as 150MB, 64MiB or 100000000.");
}

export function isolationOption(): Option {
  const explanation = "run the model in a process of its own (default) or in a thread of this one";
  return new Option("--isolation <where>", explanation).choices(["thread", "process"]);
}

export function controlTokensOption(): Option {
  const explanation =
    "what spellings of control tokens, such as <|im_end|>, are in messages: `text` (default), or `control` tokens";
  return new Option("--control-tokens-in-messages <kind>", explanation).choices(["text", "control"]);
}

/**
 * Refuses a call without this option. Commander's own required options are checked before unknown ones, so that a
 * misspelt option would be reported as a missing one.
 */
export function requireOption(command: Command, name: string): void {
  if (command.getOptionValue(name) === undefined) command.error(`error: required option '--${name}' not specified`);
}

/** A parser of integers from `least` up, for commander. */
export function wholeNumber(least: number): (text: string) => number {
  return (text) => {
    if (/^\d+$/.test(text) && Number(text) >= least && Number.isSafeInteger(Number(text))) return Number(text);
    throw new InvalidArgumentError(`Expected an integer from ${least} up.`);
  };
}

/** A parser of `3,17,9`. */
export function tokenIdList(text: string): readonly number[] {
  const ids = text.split(",").map((part) => part.trim());
  if (ids.every((id) => /^\d+$/.test(id))) return ids.map(Number);
  throw new InvalidArgumentError("Expected token ids separated by commas, such as 3,17,9.");
}
