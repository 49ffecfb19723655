import { statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { ReadMeError, megabytes } from "@readme-moe/core";

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
