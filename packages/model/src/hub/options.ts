import { setTimeout } from "node:timers/promises";
import { describeValue, rejectUnknownKeys } from "@readme-moe/core";
import { expandHome, hubCacheFolder, hubEndpoint, isOfflineByEnvironment } from "./environment.ts";
import { fileNameProblem } from "./file-name.ts";
import { parseModelId, type ModelId } from "./model-id.ts";

/** How much of one file is there. */
export interface DownloadProgress {
  readonly file: string;
  /** Starts at what an earlier, cut download left, and falls back to 0 when that was of no use. */
  readonly doneBytes: number;
  readonly ofBytes: number;
}

/** Of `downloadModel`; where nothing else is said, the environment of Hugging Face's tools gives the default. */
export interface DownloadModelOptions {
  /** Branch, tag or commit; may stand in `id` instead. @default "main" */
  readonly revision?: string | undefined;
  /** One GGUF file of the repository, such as `"model.Q4_K_M.gguf"`, instead of its safetensors. */
  readonly file?: string | undefined;
  /** The cache, in the layout of Hugging Face's tools. @default `HF_HUB_CACHE`, `HF_HOME/hub` or `~/.cache/huggingface/hub` */
  readonly cacheFolder?: string | undefined;
  /** @default `HF_ENDPOINT`, else `"https://huggingface.co"` */
  readonly endpoint?: string | undefined;
  /** Access token, sent to `endpoint` only. @default `HF_TOKEN`, else the file that `hf auth login` wrote */
  readonly token?: string | undefined;
  /** Use what is in the cache, and make no request. @default `HF_HUB_OFFLINE` */
  readonly offline?: boolean | undefined;
  /** Aborts with its reason; what was downloaded so far is kept, and the next call goes on from there. */
  readonly signal?: AbortSignal | undefined;
  /** Called for each file that is downloaded, not for those that the cache has. What it throws ends the download. */
  readonly onProgress?: ((progress: DownloadProgress) => void) | undefined;
  /** For proxies and tests. @default the global `fetch` */
  readonly fetch?: typeof fetch | undefined;
  /** Waits before another attempt, in ms; for tests. */
  readonly delay?: Delay | undefined;
}

export type Delay = (milliseconds: number, signal?: AbortSignal) => Promise<void>;

/** The options, checked, with their defaults. */
export interface DownloadRequest extends ModelId {
  readonly file: string | undefined;
  readonly cacheFolder: string;
  /** Without a slash at the end. */
  readonly endpoint: string;
  /** As the caller gave it; the environment's is only read when a request is made. */
  readonly token: string | undefined;
  readonly isOffline: boolean;
  readonly signal: AbortSignal | undefined;
  readonly onProgress: (progress: DownloadProgress) => void;
  readonly fetch: typeof fetch;
  readonly delay: Delay;
}

const NAMES = [
  "revision",
  "file",
  "cacheFolder",
  "endpoint",
  "token",
  "offline",
  "signal",
  "onProgress",
  "fetch",
  "delay",
] as const satisfies readonly (keyof DownloadModelOptions)[];

/** @throws {TypeError} naming the option that is wrong, what it should be, and what it is */
export function resolveDownload(id: unknown, options: DownloadModelOptions): DownloadRequest {
  if (typeof options !== "object" || options === null) {
    throw new TypeError(`Expected \`options\` to be an object, got ${describeValue(options)}`);
  }
  rejectUnknownKeys("downloadModel", options, NAMES);
  const { revision, file, cacheFolder, endpoint, token, offline, signal, onProgress, delay } = options;
  const fetchOption = options.fetch;
  expect(file === undefined || isGgufName(file), "file", "the name of a .gguf file in the repository", file);
  expect(cacheFolder === undefined || isText(cacheFolder), "cacheFolder", "the path of a folder", cacheFolder);
  expect(offline === undefined || typeof offline === "boolean", "offline", "a boolean", offline);
  expect(signal === undefined || signal instanceof AbortSignal, "signal", "an AbortSignal", signal);
  expectFunction("onProgress", onProgress);
  expectFunction("fetch", fetchOption);
  expectFunction("delay", delay);
  const base = endpoint ?? hubEndpoint();
  expect(isWebAddress(base), endpoint === undefined ? "HF_ENDPOINT" : "endpoint", "an http(s) URL", base);
  if (token !== undefined) checkToken("token", token);
  return {
    ...parseModelId(id, revision),
    file,
    cacheFolder: cacheFolder === undefined ? hubCacheFolder() : expandHome(cacheFolder),
    endpoint: base.replace(/\/+$/, ""),
    token,
    isOffline: offline ?? isOfflineByEnvironment(),
    signal,
    onProgress: onProgress ?? (() => undefined),
    fetch: fetchOption ?? fetch,
    delay: delay ?? ((milliseconds, abort) => setTimeout(milliseconds, undefined, abort ? { signal: abort } : {})),
  };
}

function expect(isAsExpected: boolean, name: string, expectation: string, value: unknown): void {
  if (!isAsExpected) throw new TypeError(`Expected \`${name}\` to be ${expectation}, got ${describeValue(value)}`);
}

function expectFunction(name: string, value: unknown): void {
  expect(value === undefined || typeof value === "function", name, "a function", value);
}

/** The value is a secret, so the message does not show it. @throws {TypeError} when no header could carry it */
export function checkToken(name: string, token: unknown): void {
  if (typeof token === "string" && /^[\x21-\x7e]+$/.test(token)) return;
  throw new TypeError(`Expected \`${name}\` to be an access token of printable characters without spaces`);
}

function isText(value: unknown): boolean {
  return typeof value === "string" && value !== "";
}

function isGgufName(value: unknown): boolean {
  return typeof value === "string" && /\.gguf$/i.test(value) && fileNameProblem(value) === undefined;
}

function isWebAddress(value: unknown): boolean {
  return typeof value === "string" && /^https?:\/\//i.test(value) && URL.canParse(value) && !/[?#]/.test(value);
}
