// Folders that appear whole or not at all, and of which the first one with a name stays.

import { randomUUID } from "node:crypto";
import { mkdirSync } from "node:fs";
import { mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { z } from "zod";

/** Age of an unfinished write that its writer cannot be busy with any more, in ms. */
const LEFT_BEHIND_MS = 24 * 3_600_000;

/** A folder with a part for unfinished writes, on the same file system. */
export class Root {
  readonly path: string;
  readonly #temporary: string;

  /**
   * Makes the folder if it does not exist.
   *
   * @param parts - folders in it
   * @throws {RangeError} if it cannot be made
   */
  constructor(path: string, parts: readonly string[]) {
    this.path = resolve(path);
    this.#temporary = join(this.path, "tmp");
    try {
      for (const part of ["tmp", ...parts]) mkdirSync(join(this.path, part), { recursive: true });
    } catch (cause) {
      throw new RangeError(`Expected \`batches.folder\` to be a folder that can be written, got \`${path}\``, {
        cause,
      });
    }
  }

  /**
   * Makes a folder that appears with all its contents. Several processes may try at once: one of them succeeds.
   *
   * @param target - path below the root
   * @param fill - writes at least one file into the folder that it is given
   * @returns whether this call made it; false if it exists, or if the folder that it would be in does not
   */
  async publish(target: string, fill: (folder: string) => Promise<void>): Promise<boolean> {
    const [temporary, path] = [join(this.#temporary, randomUUID()), join(this.path, target)];
    await mkdir(temporary, { recursive: true });
    try {
      await fill(temporary);
      // A folder cannot take the place of another that has files in it.
      await rename(temporary, path);
      return true;
    } catch (error) {
      await rm(temporary, { recursive: true, force: true });
      if (hasCode(error, "ENOTEMPTY", "EEXIST", "EPERM") && (await exists(path))) return false;
      if (await isGone(path, error)) return false;
      throw error;
    }
  }

  /** Removes a folder at once for all who look for it. @returns whether it existed */
  async remove(target: string): Promise<boolean> {
    const temporary = join(this.#temporary, randomUUID());
    try {
      await rename(join(this.path, target), temporary);
    } catch (error) {
      if (hasCode(error, "ENOENT")) return false;
      throw error;
    }
    await rm(temporary, { recursive: true, force: true });
    return true;
  }

  /** Replaces a small file. Readers see the old one or the new one. @returns whether the file's folder exists */
  async replace(target: string, value: object): Promise<boolean> {
    const [temporary, path] = [join(this.#temporary, randomUUID()), join(this.path, target)];
    try {
      await writeFile(temporary, JSON.stringify(value));
      await rename(temporary, path);
      return true;
    } catch (error) {
      await rm(temporary, { force: true });
      if (await isGone(path, error)) return false;
      throw error;
    }
  }

  /** Removes what writers that were killed have left. @param nowMs - time since 1970, as of files */
  async sweep(nowMs: number): Promise<void> {
    for (const name of await namesIn(this.#temporary)) {
      const path = join(this.#temporary, name);
      const age = await stat(path).then(
        ({ mtimeMs }) => nowMs - mtimeMs,
        () => 0,
      );
      if (age > LEFT_BEHIND_MS) await rm(path, { recursive: true, force: true });
    }
  }
}

/** Writes a small file that survives a crash of the machine. */
export async function writeJson(path: string, value: object): Promise<void> {
  await writeFile(path, JSON.stringify(value), { flush: true });
}

/** Reads a file of `writeJson`. @returns `undefined` if it does not exist */
export async function readJsonFile(path: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(path, "utf8"));
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return undefined;
    throw error;
  }
}

/** Tells whether an error is about the contents of a file that was read. */
export function isDamage(error: unknown): boolean {
  return error instanceof SyntaxError || error instanceof z.ZodError;
}

/** Lists the names in a folder; none if it does not exist. */
export async function namesIn(path: string): Promise<readonly string[]> {
  try {
    return await readdir(path);
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return [];
    throw error;
  }
}

/** Writes chunks into a new file that survives a crash of the machine. @returns its size in bytes */
export async function writeChunks(path: string, chunks: AsyncIterable<Uint8Array>): Promise<number> {
  const handle = await open(path, "wx");
  try {
    let numBytes = 0;
    for await (const chunk of chunks) {
      await handle.appendFile(chunk);
      numBytes += chunk.byteLength;
    }
    await handle.sync();
    return numBytes;
  } finally {
    await handle.close();
  }
}

/** Tells whether a write failed since the folder that it was for was removed. */
async function isGone(path: string, error: unknown): Promise<boolean> {
  return hasCode(error, "ENOENT") && !(await exists(dirname(path)));
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

/** Tells whether an error is one of the system with one of these codes. */
export function hasCode(error: unknown, ...codes: readonly string[]): boolean {
  return error instanceof Error && "code" in error && codes.includes(String(error.code));
}
