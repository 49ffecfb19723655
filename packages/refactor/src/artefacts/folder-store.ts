// Artefacts as files of a folder that machines share.

import { mkdir, readFile, rm, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { ReadMeError, type ArtefactStore } from "@readme-moe/core";
import { writeFileAtomically } from "@readme-moe/model";
import { checkedKey } from "./key.ts";

/** @throws {ReadMeError} `ERR_WRITE_FAILED` when the folder cannot be made */
export async function openFolder(folder: string): Promise<ArtefactStore> {
  try {
    await mkdir(folder, { recursive: true });
  } catch (cause) {
    throw new ReadMeError("ERR_WRITE_FAILED", `${folder}: is no folder for artefacts`, { cause });
  }
  const pathOf = (key: string): string => join(resolve(folder), checkedKey(key));
  return {
    has: async (key) => (await ifThere(pathOf(key), stat)) !== undefined,
    get: (key) => ifThere(pathOf(key), (path) => readFile(path)),
    put: (key, bytes) => writeFileAtomically(pathOf(key), bytes),
    remove: (key) => rm(pathOf(key), { force: true }),
  };
}

/** @throws {ReadMeError} `ERR_FILE_UNREADABLE` for any other reason than that there is no such file */
async function ifThere<Result>(path: string, read: (path: string) => Promise<Result>): Promise<Result | undefined> {
  try {
    return await read(path);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new ReadMeError("ERR_FILE_UNREADABLE", `${path}: cannot be read`, { cause });
  }
}
