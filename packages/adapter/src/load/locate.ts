// Decides whether the engine runs a model, and finds its files.

import { existsSync } from "node:fs";
import { readdir, readFile, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import {
  downloadModel,
  type DownloadModelOptions,
  type DownloadProgress,
  hubFileNames,
  type HubSettings,
  type OnnxDtype,
  parseModelName,
  resolveModel,
} from "@readme-moe/model";
import type { Generation, HostEnv, HostLoadOptions } from "../host.ts";
import { onnxChoice } from "../onnx-file.ts";
import { type AdapterOptions, engineOptionsOf } from "../options.ts";

export interface LocateRequest {
  readonly id: string;
  readonly generation: Generation;
  readonly env: HostEnv;
  readonly options: HostLoadOptions;
  readonly adapter: AdapterOptions;
  /** Kind of file. Of models with ONNX files, the host loads config and tokenizer itself. @default "model" */
  readonly what?: "model" | "config" | "tokenizer" | undefined;
}

/** A model for the engine. */
export interface Located {
  /** Folder, GGUF file or ONNX file. */
  readonly path: string;
  /** Data type of the ONNX file, if the options or the model's config ask for it. */
  readonly dtype?: OnnxDtype | undefined;
  /** Whether the host can run the model if the engine cannot. */
  readonly isHosts: boolean;
}

const HUB_ID = /^[\w.-]+\/[\w.-]+$/;
const PATH_TEMPLATE = "{model}/resolve/{revision}/";

/**
 * Finds a model's files for the engine: of models with ONNX files the one that the host would load, unless
 * `engine: "readme-moe"` asks for the engine and there are safetensors or GGUF beside it. `undefined` leaves a model to
 * the host, which has its own errors for models that are not found.
 *
 * Searches in the host's order: the path itself, `env.localModelPath`, the cache folder, the hub. Names that no host
 * knows come last: short names such as `qwen3:0.6b`, and one file or type of weights of a repository
 * (`org/name:file.gguf`, `org/name:Q8_0`).
 *
 * @throws {ReadMeError} as `downloadModel`, for a model of the hub that is the engine's; a `Refused` when the host can
 *   run the model
 */
export async function locate(request: LocateRequest): Promise<Located | undefined> {
  const { id, env, options } = request;
  const cacheFolder = options.cache_dir ?? env.cacheDir ?? undefined;
  const local = env.allowLocalModels ? [resolve(id), join(env.localModelPath, id)] : [];
  const cached = cacheFolder === undefined ? [] : [join(cacheFolder, id)];
  for (const path of [...local, ...cached]) {
    const owned = existsSync(path) ? await ownedBy(path, request) : "nobody";
    if (owned !== "nobody") return owned === "host" ? undefined : owned;
  }
  return HUB_ID.test(id) ? locateOnHub(request, cacheFolder) : locateNamed(request, cacheFolder);
}

/** Finds what a name of our own stands for, with the host's settings of the hub. */
async function locateNamed(request: LocateRequest, cacheFolder: string | undefined): Promise<Located | undefined> {
  const { id, env, options, adapter, generation } = request;
  const { kind } = parseModelName(id, () => false);
  if ((kind !== "known" && kind !== "hub") || env.remotePathTemplate !== PATH_TEMPLATE) return undefined;
  const { precision, cacheFolder: own } = engineOptionsOf(generation, options, adapter);
  const { revision, progress_callback: onEvent } = options;
  const path = await resolveModel(id, {
    precision,
    cacheFolder: own,
    hub: hubSettings(request, cacheFolder),
    ...(revision ? { revision } : {}),
    ...(onEvent ? { onProgress: progressEvents(id, onEvent) } : {}),
  });
  return { path, isHosts: false };
}

function hubSettings({ env, options }: LocateRequest, cacheFolder: string | undefined): HubSettings {
  return {
    ...(cacheFolder ? { cacheFolder } : {}),
    ...(env.fetch ? { fetch: env.fetch } : {}),
    endpoint: env.remoteHost,
    offline: options.local_files_only === true || !env.allowRemoteModels,
  };
}

/** Decides by a folder's files. Folders without weights are skipped: hosts cache a config and a tokenizer alone. */
async function ownedBy(path: string, request: LocateRequest): Promise<Located | "host" | "nobody"> {
  if (!(await stat(path)).isDirectory()) {
    return /\.(gguf|onnx)$/i.test(path) ? { path, isHosts: false } : "host";
  }
  const names = await namesIn(path, request.options.subfolder ?? "onnx");
  const isHosts = hasOnnx(names);
  if (!hasWeights(names) && !isHosts) return "nobody";
  const config = await readConfig(join(path, "config.json"));
  if (isOurs(names, request) || isReadMe(config)) return { path, isHosts };
  const choice = onnxChoice(request.generation, request.options, names, config);
  if (choice === undefined || isText(request)) return "host";
  return { path: join(path, choice.file), dtype: choice.dtype, isHosts };
}

async function namesIn(path: string, subfolder: string): Promise<ReadonlySet<string>> {
  const inner = await readdir(join(path, subfolder)).catch((): string[] => []);
  return new Set([...(await readdir(path)), ...inner.map((name) => `${subfolder}/${name}`)]);
}

/** Tells whether the engine runs safetensors or GGUF: those without ONNX files, or those that are asked for. */
function isOurs(names: ReadonlySet<string>, { adapter: { engine } }: LocateRequest): boolean {
  return hasWeights(names) && (engine === "readme-moe" || !hasOnnx(names));
}

function isText({ what = "model" }: LocateRequest): boolean {
  return what !== "model";
}

/** Tells whether names of a folder include weights that the engine reads, in the folder itself. */
function hasWeights(names: Iterable<string>): boolean {
  return Array.from(names).some((name) => /^[^/]+\.(safetensors|safetensors\.index\.json|gguf)$/i.test(name));
}

function hasOnnx(names: Iterable<string>): boolean {
  return Array.from(names).some((name) => name.toLowerCase().endsWith(".onnx"));
}

/** Reads a config.json; `undefined` if it cannot be read. */
async function readConfig(path: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(path, "utf8"));
  } catch {
    return undefined;
  }
}

function isReadMe(config: unknown): boolean {
  return typeof config === "object" && config !== null && "readme" in config;
}

/** A model of the hub that the engine refused, and that the host can run. */
export class Refused extends Error {}

/** Downloads a model of the hub into the host's cache folder, in the layout of Hugging Face's own tools. */
async function locateOnHub(request: LocateRequest, cacheFolder: string | undefined): Promise<Located | undefined> {
  const { id, env, options, what } = request;
  // A server with another layout of paths cannot list its files.
  if (env.remotePathTemplate !== PATH_TEMPLATE) return undefined;
  const { revision, progress_callback: onEvent } = options;
  const download: DownloadModelOptions = { ...hubSettings(request, cacheFolder), ...(revision ? { revision } : {}) };
  const names = await hubFileNames(id, download).catch(() => undefined);
  if (names === undefined) return undefined;
  const isHosts = hasOnnx(names);
  if (!hasWeights(names) && !isHosts) return undefined;
  if (what === "config" && names.has("config.json")) return undefined;
  const events = onEvent ? { onProgress: progressEvents(id, onEvent) } : {};
  // A repository with both is a Read-ME model if its weights have the names of a Read-ME folder.
  if (isOurs(names, request) || names.has("backbone.safetensors")) {
    return { path: await downloadOnce(id, { ...download, ...events }), isHosts };
  }
  const choice = onnxChoice(request.generation, options, names, undefined);
  if (choice === undefined || isText(request)) return undefined;
  try {
    const path = await downloadOnce(id, { ...download, ...events, file: choice.file });
    return { path, dtype: choice.dtype, isHosts };
  } catch (cause) {
    if (isUnreadable(cause)) throw new Refused(cause.message, { cause });
    throw cause;
  }
}

const downloads = new Map<string, Promise<string>>();

/** Shares a download among calls at the same time: a pipeline loads tokenizer and model at once. */
function downloadOnce(id: string, options: DownloadModelOptions): Promise<string> {
  const { cacheFolder, endpoint, file, offline, revision } = options;
  const key = JSON.stringify([id, cacheFolder, endpoint, file, offline, revision]);
  const running = downloads.get(key) ?? downloadModel(id, options).finally(() => downloads.delete(key));
  downloads.set(key, running);
  return running;
}

const UNREADABLE: readonly string[] = [
  "ERR_MODEL_UNSUPPORTED",
  "ERR_MODEL_INVALID",
  "ERR_FILE_CORRUPT",
  "ERR_FILE_NOT_FOUND",
  "ERR_FILE_UNREADABLE",
];

/** Tells whether an error is about a model's files, not about the engine. */
export function isUnreadable(error: unknown): error is ReadMeError {
  return error instanceof ReadMeError && UNREADABLE.includes(error.code);
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
