// Writes files and folders whole or not at all: under a temporary name, which is renamed when everything is written.

import { randomUUID } from "node:crypto";
import { type FileHandle, mkdir, open, readdir, rename, rm, statfs } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { setTimeout } from "node:timers/promises";
import { megabytes, ReadMeError } from "@readme-moe/core";
import { isSystemError, writeError } from "./errors.ts";

/** One write of the system takes at most 2 GiB - 4 KiB, and libuv refuses more than an int32. */
const MAX_PIECE_BYTES = 2 ** 30;

/** Beginning of the names of files that are being written, or that a killed writer left. */
export const TEMPORARY_PREFIX = ".readme-moe-";

type Content = string | Uint8Array | Iterable<Uint8Array> | AsyncIterable<Uint8Array>;

/**
 * Writes a file into a temporary file of the same folder, which then replaces `path`. Until then a file already at
 * `path` stays as it was.
 *
 * @param content - a text (written as UTF-8), bytes, or chunks of bytes, each asked for once the one before is written
 * @param mode - permissions of the file @default those that the system gives new files
 * @throws {ReadMeError} `ERR_WRITE_FAILED`, also when `content` throws; its `cause` is the error underneath, and no
 *   file is left behind
 */
export async function writeFileAtomically(path: string, content: Content, mode?: number): Promise<void> {
  // In the same folder, since a rename across file systems is a copy. The name does not contain the target's name,
  // which may already be as long as names can be.
  const temporary = join(dirname(path), `${TEMPORARY_PREFIX}${randomUUID()}.tmp`);
  let handle: FileHandle | undefined;
  try {
    handle = await open(temporary, "wx", mode);
    for await (const chunk of chunksOf(content)) await writeAll(handle, chunk);
    // Otherwise a crash of the machine can leave the new name on an empty file.
    await handle.sync();
    await handle.close();
    handle = undefined;
    await renamePatiently(temporary, path);
  } catch (cause) {
    // The caller has to know the first error, which a failing clean-up must not hide.
    await handle?.close().catch(() => undefined);
    await rm(temporary, { force: true }).catch(() => undefined);
    throw writeError(path, cause);
  }
}

/** Encodes a value as indented JSON with a line end. */
export function toJson(value: unknown): string {
  return `${JSON.stringify(value, undefined, 2)}\n`;
}

function chunksOf(content: Content): Iterable<Uint8Array> | AsyncIterable<Uint8Array> {
  if (typeof content === "string") return [new TextEncoder().encode(content)];
  return content instanceof Uint8Array ? [content] : content;
}

async function writeAll(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  let done = 0;
  while (done < bytes.byteLength) {
    const piece = Math.min(bytes.byteLength - done, MAX_PIECE_BYTES);
    done += (await handle.write(bytes, done, piece)).bytesWritten;
  }
}

/**
 * Makes a folder beside `path` under a temporary name, which is then renamed.
 *
 * @param path - a folder that does not exist yet, or is empty
 * @param fill - writes everything into the folder that it is given
 * @throws {ReadMeError} `ERR_WRITE_FAILED` when `path` is neither, or when anything fails underway; a `ReadMeError` of
 *   `fill` passes through
 */
export async function writeFolderAtomically(path: string, fill: (folder: string) => Promise<void>): Promise<void> {
  const target = resolve(path);
  await refuseOccupied(target);
  const temporary = join(dirname(target), `.${basename(target)}-${randomUUID()}.tmp`);
  try {
    await mkdir(temporary, { recursive: true });
    await fill(temporary);
    await rm(target, { recursive: true, force: true }); // an empty folder, as checked above
    await renamePatiently(temporary, target);
  } catch (cause) {
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
    throw cause instanceof ReadMeError ? cause : writeError(target, cause);
  }
}

async function refuseOccupied(target: string): Promise<void> {
  const names = await readdir(target).catch((cause: unknown) => {
    if (isSystemError(cause, "ENOENT")) return [];
    throw new ReadMeError("ERR_WRITE_FAILED", `${target}: is no folder that a model could be written to`, { cause });
  });
  if (names.length === 0) return;
  throw new ReadMeError("ERR_WRITE_FAILED", `${target}: is not empty; name a folder that does not exist yet`);
}

/**
 * Makes a folder and the missing folders above it. On a read-only disk this fails with the system's own reason, while
 * Node's `recursive` says ENOENT.
 */
export async function makeFolder(path: string): Promise<void> {
  try {
    await makeUnlessThere(path);
  } catch (error) {
    const isRoot = dirname(path) === path;
    if (!isSystemError(error, "ENOENT") || isRoot) throw error;
    await makeFolder(dirname(path));
    await makeUnlessThere(path);
  }
}

/** Makes one folder. A file in its place is not noticed here; writing into it then fails. */
async function makeUnlessThere(path: string): Promise<void> {
  await mkdir(path).catch((error: unknown) => {
    if (!isSystemError(error, "EEXIST")) throw error;
  });
}

/** Errors of Windows while another program, often a virus scanner, has a file open that was just written. */
const BUSY = ["EPERM", "EACCES", "EBUSY"];
/** Waits of 2.5 s together. */
const WAITS_MS = [10, 20, 40, 80, 160, 320, 640, 1280];

export interface RenameSystem {
  readonly platform: string;
  readonly rename: (from: string, to: string) => Promise<void>;
  readonly wait: (ms: number) => Promise<unknown>;
}

const SYSTEM: RenameSystem = { platform: process.platform, rename, wait: setTimeout };

/** Renames a file or folder; on Windows tries again for some seconds when it or its target is in use. */
export async function renamePatiently(from: string, to: string, system: RenameSystem = SYSTEM): Promise<void> {
  for (const waitMs of system.platform === "win32" ? WAITS_MS : []) {
    try {
      return await system.rename(from, to);
    } catch (error) {
      if (!isSystemError(error, ...BUSY)) throw error;
    }
    await system.wait(waitMs);
  }
  return system.rename(from, to);
}

/**
 * Returns the bytes that may be written into a folder, or into the nearest one above it that exists; `undefined` where
 * the system does not tell.
 */
export async function freeBytes(folder: string): Promise<number | undefined> {
  const state = await statfs(folder).catch(() => undefined);
  // Some network file systems have no sizes at all.
  if (state !== undefined) return state.blocks > 0 ? state.bavail * state.bsize : undefined;
  const above = dirname(folder);
  return above === folder ? undefined : freeBytes(above);
}

/** @throws {ReadMeError} `ERR_WRITE_FAILED` when a folder has less free space than will be written */
export function refuseFullDisk(folder: string, neededBytes: number, free: number | undefined): void {
  if (free === undefined || neededBytes <= free) return;
  const message = `${folder}: has ${megabytes(free)} of free space, and ${megabytes(neededBytes)} are needed`;
  throw new ReadMeError("ERR_WRITE_FAILED", message);
}
