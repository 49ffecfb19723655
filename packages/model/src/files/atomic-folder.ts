import { randomUUID } from "node:crypto";
import { mkdir, readdir, rm } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { renamePatiently } from "./rename.ts";

/**
 * Makes a folder whole or not at all: beside `path` under a temporary name, then renamed.
 *
 * @param path - a folder that does not exist yet, or is empty
 * @param fill - writes everything into the folder that it is given
 * @throws {ReadMeError} `ERR_WRITE_FAILED` when `path` is neither, or when anything fails underway; what `fill` throws
 *   as a `ReadMeError` stays as it is
 */
export async function writeFolderAtomically(path: string, fill: (folder: string) => Promise<void>): Promise<void> {
  const target = resolve(path);
  await refuseOccupied(target);
  const temporary = join(dirname(target), `.${basename(target)}-${randomUUID()}.tmp`);
  try {
    await mkdir(temporary, { recursive: true });
    await fill(temporary);
    await rm(target, { recursive: true, force: true }); // an empty folder, see above
    await renamePatiently(temporary, target);
  } catch (cause) {
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
    if (cause instanceof ReadMeError) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ReadMeError("ERR_WRITE_FAILED", `${target}: cannot be written (${reason})`, { cause });
  }
}

async function refuseOccupied(target: string): Promise<void> {
  const names = await readdir(target).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === "ENOENT") return [];
    throw new ReadMeError("ERR_WRITE_FAILED", `${target}: is no folder that a model could be written to`, { cause });
  });
  if (names.length === 0) return;
  throw new ReadMeError("ERR_WRITE_FAILED", `${target}: is not empty; name a folder that does not exist yet`);
}
