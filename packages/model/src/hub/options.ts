// Options of downloads, checked. Defaults are those of the environment variables that Hugging Face's own tools read.
// @huggingface/hub has `getHFHubCachePath`, which neither expands `~` nor takes an empty variable for an absent one.

import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { checkedOptions, describeValue, type OptionChecks, rejectUnknownKeys } from "@readme-moe/core";
import { expandHome } from "../cache/cache-folder.ts";
import { repositoryNameProblem } from "../files/file-name.ts";
import { readTextFile } from "../files/read-file.ts";

const DEFAULT_REVISION = "main";
const MAX_NAME_LENGTH = 96;
const MAX_TOKEN_FILE_BYTES = 1 << 16;

/** Progress of one file's download. */
export interface DownloadProgress {
  readonly file: string;
  /** Bytes that are downloaded; begins with those of an interrupted download, and falls to 0 when they are useless. */
  readonly doneBytes: number;
  readonly ofBytes: number;
}

/** Files and sizes of a download that begins. */
export interface DownloadPlan {
  /** Commit that the revision stands for; `undefined` for a package that is no repository. */
  readonly commit: string | undefined;
  readonly files: readonly PlannedFile[];
  readonly bytes: number;
  /** Bytes that are not in the cache yet. */
  readonly missingBytes: number;
  /** Folder of the cache that the files are written to. */
  readonly folder: string;
  /** Free space there; `undefined` where the system does not tell. */
  readonly freeBytes: number | undefined;
  /** Terms of use, as one sentence, of weights that come without the hub's own page of terms. */
  readonly terms?: string | undefined;
}

/** A file of a download. */
export interface PlannedFile {
  readonly name: string;
  readonly bytes: number;
  /** Bytes that are not in the cache yet: none of a file that is there, the rest of one that was interrupted. */
  readonly missingBytes: number;
}

/** Options of `downloadModel`. Most defaults come from the environment variables of Hugging Face's tools. */
export interface DownloadModelOptions {
  /** Branch, tag or commit; may be in `id` instead. @default "main" */
  readonly revision?: string | undefined;
  /** One GGUF or ONNX file of the repository, such as `"model.Q4_K_M.gguf"`, instead of its safetensors. */
  readonly file?: string | undefined;
  /**
   * Cache folder, in the layout of Hugging Face's tools.
   * @default `HF_HUB_CACHE`, `HF_HOME/hub` or `~/.cache/huggingface/hub`
   */
  readonly cacheFolder?: string | undefined;
  /** @default `HF_ENDPOINT`, else `"https://huggingface.co"` */
  readonly endpoint?: string | undefined;
  /** Access token, sent to `endpoint` only. @default `HF_TOKEN`, else the file that `hf auth login` wrote */
  readonly token?: string | undefined;
  /** Uses the files in the cache, and makes no request. @default `HF_HUB_OFFLINE` */
  readonly offline?: boolean | undefined;
  /** Aborts with its reason. Downloaded bytes are kept, and the next call continues there. */
  readonly signal?: AbortSignal | undefined;
  /** Called for each file that is downloaded, not for cached files. An error that it throws ends the download. */
  readonly onProgress?: ((progress: DownloadProgress) => void) | undefined;
  /**
   * Called before the first large file is requested, not for a model that is in the cache. An error that it throws ends
   * the download.
   */
  readonly onPlan?: ((plan: DownloadPlan) => void) | undefined;
  /** Replacement of `fetch`, for proxies and tests. @default the global `fetch` */
  readonly fetch?: typeof fetch | undefined;
  /** Waits before another attempt, in ms; for tests. */
  readonly delay?: Delay | undefined;
}

/** Settings of the hub: its address, its cache folder, and how it is reached. */
export type HubSettings = Pick<DownloadModelOptions, "cacheFolder" | "endpoint" | "fetch" | "offline">;

export type Delay = (milliseconds: number, signal?: AbortSignal) => Promise<void>;

/** A model of the hub at one revision. */
export interface ModelId {
  /** `name` or `organisation/name`. */
  readonly name: string;
  /** Branch, tag or commit. */
  readonly revision: string;
}

/** Expected contents of a repository. */
export type RepositoryKind = "model" | "adapter";

/** The checked options, with their defaults. */
export interface DownloadRequest extends ModelId {
  readonly kind: RepositoryKind;
  readonly file: string | undefined;
  readonly cacheFolder: string;
  /** URL without a slash at the end. */
  readonly endpoint: string;
  /** The caller's token; that of the environment is first read when a request is made. */
  readonly token: string | undefined;
  readonly isOffline: boolean;
  readonly signal: AbortSignal | undefined;
  readonly onProgress: (progress: DownloadProgress) => void;
  readonly onPlan: (plan: DownloadPlan) => void;
  readonly fetch: typeof fetch;
  readonly delay: Delay;
}

function checked<Value>(isRight: (value: unknown) => boolean, expectation: string) {
  return (value: Value | undefined, name: string): Value | undefined => {
    if (value === undefined || isRight(value)) return value;
    throw new TypeError(`Expected \`${name}\` to be ${expectation}, got ${describeValue(value)}`);
  };
}

const isFunction = checked<unknown>((value) => typeof value === "function", "a function");
const isAddress = checked<string>(isWebAddress, "an http(s) URL");

const CHECKS = {
  // Checked together with the id.
  revision: (value) => value,
  file: checked(isModelFile, "the name of a .gguf or .onnx file in the repository"),
  cacheFolder: checked((value) => typeof value === "string" && value !== "", "the path of a folder"),
  endpoint: isAddress,
  token: (value, name) => (value === undefined ? value : checkToken(name, value)),
  offline: checked((value) => typeof value === "boolean", "a boolean"),
  signal: checked((value) => value instanceof AbortSignal, "an AbortSignal"),
  onProgress: isFunction,
  onPlan: isFunction,
  fetch: isFunction,
  delay: isFunction,
} satisfies OptionChecks<DownloadModelOptions>;

/** @throws {TypeError} naming the wrong option, the expectation and the value */
export function resolveDownload(
  id: unknown,
  options: DownloadModelOptions,
  kind: RepositoryKind = "model",
): DownloadRequest {
  if (typeof options !== "object" || options === null) {
    throw new TypeError(`Expected \`options\` to be an object, got ${describeValue(options)}`);
  }
  rejectUnknownKeys("downloadModel", options, Object.keys(CHECKS));
  checkedOptions(options, CHECKS);
  const { revision, file, cacheFolder, token, offline, signal, onProgress, onPlan, delay } = options;
  const endpoint = options.endpoint ?? isAddress(hubEndpoint(), "HF_ENDPOINT") ?? "";
  return {
    ...parseModelId(id, revision),
    kind,
    file,
    cacheFolder: cacheFolder === undefined ? hubCacheFolder() : expandHome(cacheFolder),
    endpoint: withoutSlash(endpoint),
    token,
    isOffline: offline ?? (isSet("HF_HUB_OFFLINE") || isSet("TRANSFORMERS_OFFLINE")),
    signal,
    onProgress: onProgress ?? (() => undefined),
    onPlan: onPlan ?? (() => undefined),
    fetch: options.fetch ?? fetch,
    delay: delay ?? ((milliseconds, abort) => setTimeout(milliseconds, undefined, abort ? { signal: abort } : {})),
  };
}

/** Checks a token without showing it in the message. @throws {TypeError} when no header could carry it */
export function checkToken(name: string, token: unknown): string {
  if (typeof token === "string" && /^[\x21-\x7e]+$/.test(token)) return token;
  throw new TypeError(`Expected \`${name}\` to be an access token of printable characters without spaces`);
}

function isModelFile(value: unknown): boolean {
  return typeof value === "string" && /\.(gguf|onnx)$/i.test(value) && repositoryNameProblem(value) === undefined;
}

function isWebAddress(value: unknown): boolean {
  return typeof value === "string" && /^https?:\/\//i.test(value) && URL.canParse(value) && !/[?#]/.test(value);
}

/**
 * @param id - `organisation/name`, or with its revision `organisation/name@revision`
 * @throws {TypeError} when either breaks the hub's rules for names, or when both give a revision
 */
function parseModelId(id: unknown, revision: unknown): ModelId {
  const [name, ...rest] = typeof id === "string" ? id.split("@") : [];
  const ownRevision = rest.length === 0 ? undefined : rest.join("@");
  if (name === undefined || !isName(name)) {
    throw new TypeError(`Expected \`id\` to name a model as "organisation/name", got ${describeValue(id)}`);
  }
  if (ownRevision !== undefined && revision !== undefined) {
    throw new TypeError(`Expected \`revision\` or a revision in \`id\`, got both: ${describeValue(id)}`);
  }
  const chosen = ownRevision ?? revision ?? DEFAULT_REVISION;
  if (typeof chosen === "string" && isRevision(chosen)) return { name, revision: chosen };
  const option = ownRevision === undefined ? "revision" : "id";
  throw new TypeError(`Expected \`${option}\` to name a branch, a tag or a commit, got ${describeValue(chosen)}`);
}

/** Checks that a revision is a commit, which never moves. */
export function isCommit(revision: string): boolean {
  return /^[0-9a-f]{40}$/.test(revision);
}

// The rules of `validate_repo_id` of huggingface_hub: the name becomes a folder's name, with `--` for the slash.
function isName(name: string): boolean {
  const parts = name.split("/");
  if (parts.length > 2 || name.length > MAX_NAME_LENGTH || /--|\.\.|\.git$/.test(name)) return false;
  return parts.every((part) => /^\w(?:[\w.-]*\w)?$/.test(part));
}

// Some of git's rules for names: the revision becomes a path below `refs`.
function isRevision(revision: string): boolean {
  return /^[\w.+-]+(?:\/[\w.+-]+)*$/.test(revision) && !/(?:^|\/)\.|\.\.|\.lock(?:$|\/)/.test(revision);
}

/** Returns the shared cache: `HF_HUB_CACHE`, else `HF_HOME/hub`; `HF_HOME` is `~/.cache/huggingface` by default. */
export function hubCacheFolder(): string {
  const named = variable("HF_HUB_CACHE") ?? variable("HUGGINGFACE_HUB_CACHE");
  return named === undefined ? join(hubHome(), "hub") : expandHome(named);
}

/** Returns the hub's URL: `HF_ENDPOINT`, else the public one. It is checked when it is used. */
export function hubEndpoint(): string {
  return withoutSlash(variable("HF_ENDPOINT") ?? "https://huggingface.co");
}

function withoutSlash(url: string): string {
  return url.replace(/\/+$/, "");
}

export function areSymlinksDisabled(): boolean {
  return isSet("HF_HUB_DISABLE_SYMLINKS");
}

/**
 * Reads the environment's token: `HF_TOKEN`, else the file of `hf auth login` at `HF_TOKEN_PATH` (`HF_HOME/token` by
 * default). `HF_HUB_DISABLE_IMPLICIT_TOKEN` turns both off.
 * @throws {ReadMeError} `ERR_FILE_UNREADABLE`, `ERR_FILE_CORRUPT` for the file
 */
export async function hubToken(): Promise<string | undefined> {
  if (isSet("HF_HUB_DISABLE_IMPLICIT_TOKEN")) return undefined;
  const token = variable("HF_TOKEN") ?? variable("HUGGING_FACE_HUB_TOKEN");
  if (token !== undefined) return token;
  const path = expandHome(variable("HF_TOKEN_PATH") ?? join(hubHome(), "token"));
  const text = await readTextFile(path, MAX_TOKEN_FILE_BYTES);
  return text?.trim() === "" ? undefined : text?.trim();
}

function hubHome(): string {
  const home = variable("HF_HOME");
  if (home !== undefined) return expandHome(home);
  return join(expandHome(variable("XDG_CACHE_HOME") ?? "~/.cache"), "huggingface");
}

function variable(name: string): string | undefined {
  const value = process.env[name]?.trim();
  return value === "" ? undefined : value;
}

function isSet(name: string): boolean {
  return ["1", "ON", "YES", "TRUE"].includes(variable(name)?.toUpperCase() ?? "");
}
