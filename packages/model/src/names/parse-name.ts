// Reads the name that a user gives for a model. Pure: whether a path exists is passed in.

import { basename, resolve } from "node:path";
import { nearestName, ReadMeError, type ReadMeErrorCode } from "@readme-moe/core";
import { downloadModel } from "../hub/download-model.ts";
import { reasonOf } from "../hub/hub-client.ts";
import type { DownloadModelOptions } from "../hub/options.ts";
import { KNOWN_MODELS, type KnownModel, type WeightSource } from "./known-models.ts";

/** A model that somebody names. */
export type ModelName =
  /** A folder or a file, which may not exist. */
  | { readonly kind: "path"; readonly path: string }
  /** A short name; `source` is there when the name says which weights. */
  | { readonly kind: "known"; readonly model: KnownModel; readonly source: WeightSource | undefined }
  | HubName
  /** Neither, with similar short names. */
  | { readonly kind: "unknown"; readonly near: readonly string[] };

/** A repository of the hub, or one GGUF file of it. */
export interface HubName {
  readonly kind: "hub";
  /** `organisation/name` */
  readonly repository: string;
  /** Branch, tag or commit. */
  readonly revision: string | undefined;
  /** Name of a GGUF file, in the repository's own spelling. */
  readonly file: string | undefined;
  /** Type of a GGUF file's weights, such as `Q8_0`, which stands for the only file of that type. */
  readonly quantization: string | undefined;
}

const EXPLICIT_PATH = /^(?:[./~\\]|[A-Za-z]:[\\/])/;
const HUB_PREFIX = /^(?:https?:\/\/)?(?:www\.)?(?:hf\.co|huggingface\.co)\/|^hf:(?:\/\/)?/i;
const HUB_NAME = /^([\w.-]+\/[\w.-]+)(?:@([\w./+-]+))?(?::([^:]+))?$/;
/** A page of the hub, as the address bar of a browser shows it. */
const HUB_PAGE = /^([\w.-]+\/[\w.-]+)\/(?:resolve|blob|tree)\/([^/?#]+)(?:\/([^?#]+\.gguf))?\/?(?:[?#].*)?$/i;
const MAX_SUGGESTIONS = 3;

/** Reads a name. What exists as a file or folder is one, whatever else the name could mean. */
export function parseModelName(name: string, exists: (path: string) => boolean): ModelName {
  if (exists(name) || EXPLICIT_PATH.test(name)) return { kind: "path", path: name };
  const hub = parseHubName(name);
  if (hub !== undefined) return hub;
  // A path of several folders, or a file: the reader of files has the better message.
  if (/[/\\]|\.gguf$/i.test(name)) return { kind: "path", path: name };
  return parseKnownName(name);
}

function parseHubName(name: string): HubName | undefined {
  const bare = name.replace(HUB_PREFIX, "");
  const [, pageRepository, pageRevision, pageFile] = (bare !== name && HUB_PAGE.exec(bare)) || [];
  if (pageRepository !== undefined) {
    const [revision, file] = [pageRevision, pageFile].map((part) => part && decoded(part));
    return { kind: "hub", repository: pageRepository, revision, file, quantization: undefined };
  }
  const [, repository, revision, tag] = HUB_NAME.exec(bare) ?? [];
  if (repository === undefined) return undefined;
  const isFile = tag !== undefined && /\.gguf$/i.test(tag);
  const quantization = isFile || tag?.toLowerCase() === "latest" ? undefined : tag;
  return { kind: "hub", repository, revision, file: isFile ? tag : undefined, quantization };
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function parseKnownName(name: string): ModelName {
  const wanted = plain(name.replace(/:latest$/i, ""));
  for (const model of KNOWN_MODELS) {
    if (plain(model.name) === wanted) return { kind: "known", model, source: undefined };
    const source = model.sources.find((one) => plain(fullName(model, one)) === wanted);
    if (source !== undefined) return { kind: "known", model, source };
  }
  const family = KNOWN_MODELS.filter((model) => plain(familyName(model)) === wanted);
  const [only] = family;
  if (only !== undefined && family.length === 1) return { kind: "known", model: only, source: undefined };
  if (family.length > 1) return { kind: "unknown", near: family.map((model) => model.name) };
  return { kind: "unknown", near: similarNames(wanted) };
}

/** Makes names comparable: `SmolLM2-135M` is `smollm2:135m`. */
function plain(name: string): string {
  return name.toLowerCase().replaceAll(":", "-");
}

/** Returns a model's name without its size. */
function familyName({ name }: KnownModel): string {
  return name.split(":")[0] ?? name;
}

/** Returns the name that stands for one source of a model, such as `qwen3:0.6b-q8_0`. */
export function fullName({ name }: KnownModel, { weights }: WeightSource): string {
  return `${name}-${weights}`;
}

/** Returns the most similar short names first; of the model itself when only its weights are unknown. */
function similarNames(wanted: string): readonly string[] {
  const model = KNOWN_MODELS.find(({ name }) => wanted.startsWith(`${plain(name)}-`));
  if (model !== undefined) return model.sources.map((source) => fullName(model, source));
  const left = new Map(KNOWN_MODELS.map(({ name }) => [plain(name), name]));
  const near: string[] = [];
  while (near.length < MAX_SUGGESTIONS) {
    const found = nearestName(wanted, [...left.keys()]);
    if (found === undefined) break;
    near.push(left.get(found) ?? found);
    left.delete(found);
  }
  return near.length > 0 ? near : similarFamily(wanted);
}

/** Returns all sizes of a family for a misspelt or shortened name without a size: `smolm2`, `llama`. */
function similarFamily(wanted: string): readonly string[] {
  if (wanted.length < 3) return [];
  const families = [...new Set(KNOWN_MODELS.map(familyName))];
  const family = families.find((one) => one.startsWith(wanted)) ?? nearestName(wanted, families);
  return KNOWN_MODELS.filter((one) => familyName(one) === family).map(({ name }) => name);
}

/** Repository of a folder in the hub's cache. */
const SNAPSHOT = /models--(?:[^/\\]*--)?([^/\\]+)[/\\]snapshots[/\\][^/\\]+$/;

/**
 * Returns the name under which servers offer a model: the short name that it was opened by, or the last part of its
 * path without the extension; the repository of a folder in the hub's cache.
 */
export function modelName(given: string): string {
  const path = resolve(given);
  return SNAPSHOT.exec(path)?.[1] ?? basename(path).replace(/\.(?:gguf|onnx)$/i, "");
}

/** Longer than the hub takes to answer over any connection that could carry the weights. */
const FIRST_ANSWER_MS = 10_000;

/**
 * Downloads a model of the hub. If the hub does not answer the first request, it is not asked again, since there is
 * another source.
 */
export async function downloadPromptly(id: string, options: DownloadModelOptions = {}): Promise<string> {
  const silence = new AbortController();
  let hasAnswered = false;
  const request = options.fetch ?? fetch;
  const promptly: typeof fetch = async (input, init) => {
    if (hasAnswered) return request(input, init);
    const giveUp = (reason: string, cause?: ErrorOptions): void => {
      const { origin } = new URL(input instanceof Request ? input.url : input);
      silence.abort(new ReadMeError("ERR_HUB_UNREACHABLE", `${origin}: does not answer (${reason})`, cause));
    };
    const timer = setTimeout(() => giveUp(`within ${FIRST_ANSWER_MS / 1000} s`), FIRST_ANSWER_MS);
    try {
      const answer = await request(input, init);
      hasAnswered = true;
      return answer;
    } catch (cause) {
      giveUp(reasonOf(cause), { cause });
      throw cause;
    } finally {
      clearTimeout(timer);
    }
  };
  const signals = [silence.signal, ...(options.signal ? [options.signal] : [])];
  return downloadModel(id, { ...options, signal: AbortSignal.any(signals), fetch: promptly });
}

interface FailedDownload {
  /** Name that the user gave. */
  readonly name: string;
  /** `organisation/name` on the hub. */
  readonly repository: string;
  readonly endpoint: string;
  /** Other names of the same model that need no token. */
  readonly alternatives: readonly string[];
}

type Advice = (failed: FailedDownload) => string;

const ADVICE: Readonly<Partial<Record<ReadMeErrorCode, Advice>>> = {
  ERR_HUB_NOT_FOUND: (failed) =>
    `look at ${pageOf(failed)}, and name repository and file, such as organisation/name:file.gguf${others(failed)}`,
  ERR_HUB_UNAUTHORIZED: (failed) =>
    `accept the terms at ${pageOf(failed)}, and set HF_TOKEN to a token of that account${others(failed)}`,
  ERR_HUB_UNREACHABLE: () =>
    "check the connection, or set HF_ENDPOINT to a mirror; the next call continues where this one stopped",
  ERR_HUB_RATE_LIMITED: () =>
    "wait, or set HF_TOKEN, which raises the limit; the next call continues where this one stopped",
  ERR_OFFLINE: ({ name }) =>
    `unset HF_HUB_OFFLINE once for \`readme-moe pull ${name}\`, or copy the cache of another machine`,
  ERR_FILE_CORRUPT: () => "try again; if it fails again, a proxy or the mirror of HF_ENDPOINT changes files",
  ERR_WRITE_FAILED: () =>
    "free some space (`readme-moe list` shows what models take), or set HF_HOME to a folder on another disk",
};

/** Returns what a user can do after a download has failed; `undefined` when the error itself says everything. */
export function adviceOn(code: ReadMeErrorCode, failed: FailedDownload): string | undefined {
  return ADVICE[code]?.(failed);
}

function pageOf({ endpoint, repository }: FailedDownload): string {
  return `${endpoint}/${repository}`;
}

function others({ alternatives }: FailedDownload): string {
  return alternatives.length === 0 ? "" : `; other weights of the model: ${alternatives.join(", ")}`;
}
