import { existsSync, readdirSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { nearestName, ReadMeError } from "@readme-moe/core";
import { unsupported } from "../files/errors.ts";
import { resolveCacheFolder } from "../cache/cache-folder.ts";
import { holdModel } from "../cache/model-index.ts";
import { ENCODER_TYPES } from "../config/encoder-config.ts";
import { MODEL_TYPES } from "../config/families.ts";
import { downloadModel, hubFileNames, listed } from "../hub/download-model.ts";
import { HubCache } from "../hub/hub-cache.ts";
import { type DownloadModelOptions, hubCacheFolder, hubEndpoint, type HubSettings } from "../hub/options.ts";
import type { Precision } from "../weights/model-weights.ts";
import { adviceOn, fullName, type HubName, type ModelName, parseModelName } from "./parse-name.ts";
import { type KnownModel, sourceFor } from "./known-models.ts";
import { presetNamed, presetPath } from "./preset.ts";

/** Options of `resolveModel`. */
export interface ResolveModelOptions extends Pick<DownloadModelOptions, "onPlan" | "onProgress" | "signal"> {
  /** Chooses the weights of a short name: the smallest that lose nothing in this precision. @default "fp32" */
  readonly precision?: Precision | undefined;
  /** Branch, tag or commit, for a name that contains none. @default "main" */
  readonly revision?: string | undefined;
  /** Our cache folder, with the weights of some models. @default `README_MOE_CACHE`, else the platform's */
  readonly cacheFolder?: string | undefined;
  /** Settings of the hub, instead of those of Hugging Face's environment variables. */
  readonly hub?: HubSettings | undefined;
}

/** One GGUF file or the safetensors of a repository. */
interface Wanted {
  readonly repository: string;
  readonly revision: string | undefined;
  readonly file: string | undefined;
}

/**
 * Finds the model that a name stands for, and downloads it if it is not there:
 *
 * 1. a file or folder of this name;
 * 2. a short name, such as `qwen3:0.6b`, or with its weights `qwen3:0.6b-q8_0`;
 * 3. a repository of the hub: `organisation/name`, with `@revision` or `:file.gguf` or `:Q8_0` where wanted.
 *
 * @returns the path for `openModel`; a path that does not exist is returned as it is
 * @throws {ReadMeError} `ERR_FILE_NOT_FOUND` for an unknown name, with similar ones; `ERR_MODEL_UNSUPPORTED` for a
 *   short name whose family is not supported; as `downloadModel`, with advice on what to do
 */
export async function resolveModel(name: string, options: ResolveModelOptions = {}): Promise<string> {
  const parsed = parseModelName(name, existsSync);
  switch (parsed.kind) {
    case "path":
      return parsed.path;
    case "known":
      return resolveKnown(parsed, options);
    case "hub":
      return downloaded(name, parsed, options);
    case "unknown":
      throw unknownModel(name, parsed.near);
    default:
      throw new TypeError(`Unknown kind of name: ${String(parsed satisfies never)}`);
  }
}

/** Makes the error of a name that stands for nothing. */
function unknownModel(name: string, near: readonly string[]): ReadMeError {
  const hint = near.length === 0 ? "" : `; did you mean ${near.join(", ")}?`;
  const message = `${name}: no such file or folder, and no model has this name${hint}`;
  return new ReadMeError("ERR_FILE_NOT_FOUND", `${message} (\`readme-moe list --available\` shows all names)`);
}

/** Whether the engine can run a known model. */
export function isSupported({ modelType }: KnownModel): boolean {
  return [...MODEL_TYPES, ...ENCODER_TYPES].includes(modelType);
}

async function resolveKnown(
  { model, source: named }: ModelName & { readonly kind: "known" },
  options: ResolveModelOptions,
): Promise<string> {
  if (!isSupported(model)) {
    throw unsupported(model.name, `models of the family ${model.modelType} are not supported yet`);
  }
  const preset = presetNamed(model.name.replace(":", "-"));
  const isMeant = named === undefined || (named.file !== undefined && named.file === preset?.hubFile);
  if (preset !== undefined && isMeant && options.revision === undefined) {
    const { cacheFolder, signal, onPlan, onProgress, hub } = options;
    return presetPath(preset, { cacheFolder, signal, onPlan, onProgress, hub });
  }
  const source = named ?? sourceFor(model, options.precision);
  const { repository, file } = source;
  const title = fullName(model, source);
  try {
    return await held({ repository, revision: options.revision, file }, options);
  } catch (error) {
    throw advised(error, `${title} (${repository}${file === undefined ? "" : `:${file}`})`, {
      name: title,
      repository,
      alternatives: model.sources
        .filter((other) => other.repository !== source.repository && other.isGated !== true)
        .map((one) => fullName(model, one)),
    });
  }
}

async function downloaded(name: string, hub: HubName, options: ResolveModelOptions): Promise<string> {
  const { repository, quantization } = hub;
  const revision = hub.revision ?? options.revision;
  if (hub.revision !== undefined && options.revision !== undefined) {
    throw new TypeError(`Expected one revision, got ${hub.revision} in the name and ${options.revision} beside it`);
  }
  try {
    const file = quantization === undefined ? hub.file : await fileOf(repository, revision, quantization, options);
    return await held({ repository, revision, file }, options);
  } catch (error) {
    const near = nearPath(name);
    const hint = near === undefined ? "" : ` (did you mean ${near}?)`;
    const subject = `${name}: no such file or folder${hint}; as a model of the hub`;
    throw advised(error, subject, { name, repository, alternatives: [] });
  }
}

/** Finds a file or folder with a similar name beside a path that does not exist. */
function nearPath(name: string): string | undefined {
  const folder = dirname(name);
  try {
    const near = nearestName(basename(name), readdirSync(folder));
    return near === undefined ? undefined : join(folder, near);
  } catch {
    return undefined;
  }
}

/** Downloads while a mark tells other processes not to remove what is there of the model. */
async function held({ repository, revision, file }: Wanted, options: ResolveModelOptions): Promise<string> {
  const { signal, onPlan, onProgress, hub } = options;
  const { folder } = new HubCache(hub?.cacheFolder ?? hubCacheFolder(), repository);
  const hold = await holdModel(resolveCacheFolder(options.cacheFolder), folder);
  try {
    return await downloadModel(repository, { ...hub, revision, file, signal, onPlan, onProgress });
  } finally {
    await hold.release();
  }
}

/** Finds the only GGUF file with weights of a type, such as `Q8_0`. */
async function fileOf(
  repository: string,
  revision: string | undefined,
  quantization: string,
  { signal, hub }: ResolveModelOptions,
): Promise<string> {
  const names = [...(await hubFileNames(repository, { ...hub, revision, signal }))].filter((name) =>
    /\.gguf$/i.test(name),
  );
  const wanted = quantization.toLowerCase();
  const found = names.filter((name) => wordsOf(name).includes(wanted));
  const [only] = found;
  if (only !== undefined && found.length === 1) return only;
  const has = names.length === 0 ? "no GGUF file" : listed(names, 20);
  const problem = found.length > 1 ? `several files are ${quantization}: ${listed(found, 20)}` : `it has ${has}`;
  throw new ReadMeError("ERR_HUB_NOT_FOUND", `${repository}: has not one file of type ${quantization}; ${problem}`);
}

interface Subject {
  readonly name: string;
  readonly repository: string;
  readonly alternatives: readonly string[];
}

function advised(error: unknown, title: string, subject: Subject): unknown {
  if (!(error instanceof ReadMeError)) return error;
  const advice = adviceOn(error.code, { ...subject, endpoint: hubEndpoint() });
  const message = `${title}: ${error.message}${advice === undefined ? "" : `; ${advice}`}`;
  return new ReadMeError(error.code, message, { cause: error });
}

/** Splits a file's name where types of weights begin and end: `Model-1B.Q4_K_M.gguf` has `q4_k_m`. */
function wordsOf(name: string): readonly string[] {
  return name
    .toLowerCase()
    .replace(/\.gguf$/, "")
    .split(/[./-]/);
}
