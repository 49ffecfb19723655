import { rejectUnknownKeys } from "@readme-moe/core";
import { resolveEngineOptions, type EngineOptions, type ResolvedEngineOptions } from "./engine-options.ts";

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

const NAMES: readonly ReaderName[] = [
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
  rejectUnknownKeys("the reader of prompts", options, NAMES);
  const resolved = resolveEngineOptions(options);
  return Object.fromEntries(NAMES.map((name) => [name, resolved[name]])) as unknown as ResolvedReaderOptions;
}
