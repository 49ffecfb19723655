import { existsSync } from "node:fs";
import { ReadMeError } from "@readme-moe/core";
import { downloadModel } from "@readme-moe/model";
import { showDownload } from "./download-progress.ts";
import { presetPath } from "./presets/preset-path.ts";
import { presetNamed } from "./presets/preset.ts";

/** What `<model>` may be, for help. */
export const MODEL_ARGUMENT = "model folder, GGUF file, hub id (organisation/name), or smollm2-135m";

// `organisation/name`, and perhaps `@revision`.
const HUB_ID = /^[\w.-]+\/[\w.-]+(@[\w./-]+)?$/;

/** The hub's id in what `<model>` names, where it names no file, folder or preset. */
export function hubIdOf(name: string): string | undefined {
  if (existsSync(name) || presetNamed(name) || !HUB_ID.test(name)) return undefined;
  return name.replace(/@.*$/, "");
}

/**
 * What `<model>` names: a folder or file as it is, else a preset, else a model of the hub, which is downloaded into the
 * shared cache.
 *
 * @param cacheFolder - where presets are kept. @default `README_MOE_CACHE`, else the platform's cache folder
 */
export async function modelPath(name: string, signal: AbortSignal, cacheFolder?: string): Promise<string> {
  if (existsSync(name)) return name;
  const preset = presetNamed(name);
  if (preset) return presetPath(preset, { cacheFolder, signal });
  if (hubIdOf(name) === undefined) return name;
  try {
    return await downloadModel(name, { signal, onProgress: showDownload });
  } catch (error) {
    if (!(error instanceof ReadMeError)) throw error;
    const message = `${name}: no such file or folder; as a model of the hub: ${error.message}`;
    throw new ReadMeError(error.code, message, { cause: error });
  } finally {
    showDownload();
  }
}
