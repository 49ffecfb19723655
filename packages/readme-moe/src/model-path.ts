import { existsSync } from "node:fs";
import { ReadMeError } from "@readme-moe/core";
import { downloadModel } from "@readme-moe/model";
import { presetNamed, presetPath } from "./presets/preset.ts";
import { showDownload } from "./progress.ts";

/** Description of `<model>` in help texts. */
export const MODEL_ARGUMENT = "model folder, GGUF file, hub id (organisation/name), or smollm2-135m";

// `organisation/name`, optionally with `@revision`.
const HUB_ID = /^[\w.-]+\/[\w.-]+(@[\w./-]+)?$/;

/** Reads the hub's id from `<model>`, unless that is a file, a folder or a preset. */
export function hubIdOf(name: string): string | undefined {
  if (existsSync(name) || presetNamed(name) || !HUB_ID.test(name)) return undefined;
  return name.replace(/@.*$/, "");
}

/**
 * Resolves `<model>`: the path of a folder or file, else a preset, else a model of the hub, which is downloaded into
 * the shared cache.
 *
 * @param cacheFolder - folder of presets. @default `README_MOE_CACHE`, else the platform's cache folder
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
