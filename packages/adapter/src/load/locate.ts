// Decides whether the engine runs a model, and finds its files.

import { existsSync } from "node:fs";
import { readdir, readFile, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { downloadModel, hubFileNames, type DownloadModelOptions, type DownloadProgress } from "@readme-moe/model";
import type { HostEnv, HostLoadOptions } from "../host.ts";
import type { AdapterOptions } from "../options.ts";

export interface LocateRequest {
  readonly id: string;
  readonly env: HostEnv;
  readonly options: HostLoadOptions;
  readonly adapter: AdapterOptions;
  /** Kind of file; the host loads a config alone if the hub has a config.json. @default "model" */
  readonly what?: "model" | "config" | undefined;
}

const HUB_ID = /^[\w.-]+\/[\w.-]+$/;
const PATH_TEMPLATE = "{model}/resolve/{revision}/";

/**
 * Finds the folder or GGUF file of a model for the engine. `undefined` leaves a model to the host: folders with `onnx`
 * and without `readme` in their config, and models that are not found, for which the host has its own errors.
 *
 * Searches in the host's order: the path itself, `env.localModelPath`, the cache folder, the hub.
 *
 * @throws {ReadMeError} as `downloadModel`, for a model of the hub that is the engine's
 */
export async function locate(request: LocateRequest): Promise<string | undefined> {
  const { id, env, options, adapter } = request;
  const cacheFolder = options.cache_dir ?? env.cacheDir ?? undefined;
  const local = env.allowLocalModels ? [resolve(id), join(env.localModelPath, id)] : [];
  const cached = cacheFolder === undefined ? [] : [join(cacheFolder, id)];
  for (const path of [...local, ...cached]) {
    const owner = existsSync(path) ? await ownerOf(path, adapter) : "nobody";
    if (owner !== "nobody") return owner === "engine" ? path : undefined;
  }
  return HUB_ID.test(id) ? locateOnHub(request, cacheFolder) : undefined;
}

/** Decides by a folder's files. Folders without weights are skipped: hosts cache a config and a tokenizer alone. */
async function ownerOf(path: string, { engine }: AdapterOptions): Promise<"engine" | "host" | "nobody"> {
  if (!(await stat(path)).isDirectory()) return path.toLowerCase().endsWith(".gguf") ? "engine" : "host";
  const names = new Set(await readdir(path));
  if (!hasWeights(names)) return names.has("onnx") ? "host" : "nobody";
  const isOurs = engine === "readme-moe" || !names.has("onnx") || (await isReadMe(join(path, "config.json")));
  return isOurs ? "engine" : "host";
}

/** Tells whether names of a folder include weights that the engine reads, in the folder itself. */
function hasWeights(names: Iterable<string>): boolean {
  return Array.from(names).some((name) => /^[^/]+\.(safetensors|safetensors\.index\.json|gguf)$/i.test(name));
}

/** Tells whether a config.json describes a Read-ME model; false if it cannot be read. */
async function isReadMe(path: string): Promise<boolean> {
  try {
    const config: unknown = JSON.parse(await readFile(path, "utf8"));
    return typeof config === "object" && config !== null && "readme" in config;
  } catch {
    return false;
  }
}

/** Downloads a model of the hub into the host's cache folder, in the layout of Hugging Face's own tools. */
async function locateOnHub(
  { id, env, options, adapter: { engine }, what }: LocateRequest,
  cacheFolder: string | undefined,
): Promise<string | undefined> {
  // A server with another layout of paths cannot list its files.
  if (env.remotePathTemplate !== PATH_TEMPLATE) return undefined;
  const { revision, local_files_only: isLocal, progress_callback: onEvent } = options;
  const request: DownloadModelOptions = {
    ...(cacheFolder ? { cacheFolder } : {}),
    ...(revision ? { revision } : {}),
    ...(env.fetch ? { fetch: env.fetch } : {}),
    endpoint: env.remoteHost,
    offline: isLocal === true || !env.allowRemoteModels,
  };
  const names = await hubFileNames(id, request).catch(() => undefined);
  if (names === undefined || !hasWeights(names)) return undefined;
  if (what === "config" && names.has("config.json")) return undefined;
  const isHosts = Array.from(names).some((name) => name.startsWith("onnx/"));
  // A repository with both is a Read-ME model if its weights have the names of a Read-ME folder.
  if (isHosts && engine !== "readme-moe" && !names.has("backbone.safetensors")) return undefined;
  return downloadModel(id, { ...request, ...(onEvent ? { onProgress: progressEvents(id, onEvent) } : {}) });
}

/** Reports downloads as the host's events of files. */
function progressEvents(name: string, onEvent: (event: object) => void): (progress: DownloadProgress) => void {
  const begun = new Set<string>();
  return ({ file, doneBytes: loaded, ofBytes: total }) => {
    if (!begun.has(file)) {
      onEvent({ status: "initiate", name, file });
      onEvent({ status: "download", name, file });
    }
    begun.add(file);
    onEvent({ status: "progress", name, file, progress: total > 0 ? (100 * loaded) / total : 100, loaded, total });
    if (loaded >= total) onEvent({ status: "done", name, file });
  };
}
