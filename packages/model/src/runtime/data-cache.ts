// Files that are made once from a model and read piece by piece while it runs, kept beside the built graphs.

import { createHash, randomUUID } from "node:crypto";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { makeFolder } from "../files/make-folder.ts";
import { removeAbandoned } from "./abandoned.ts";
import { DATA_FILE, installEntry, isWholeEntry, writeEntry } from "./cache-entry.ts";

const BUILDING = ".building-";

/**
 * The file's path, made when it is not there, or not whole.
 *
 * @param kind - names the folder in the cache
 * @param key - of everything that the contents are made from
 * @param note - kept beside it, such as what is where in it
 * @throws {ReadMeError} `ERR_WRITE_FAILED` when the cache cannot be written
 */
export async function cachedData(
  cacheFolder: string,
  kind: string,
  key: string,
  note: string,
  chunks: () => AsyncIterable<Uint8Array>,
): Promise<string> {
  const folder = join(cacheFolder, kind);
  const entry = join(folder, createHash("sha256").update(`${key}\n${note}`).digest("hex").slice(0, 40));
  await removeAbandoned(folder, BUILDING);
  if (!(await isWholeEntry(entry))) {
    await makeFolder(folder);
    const temporary = join(folder, `${BUILDING}${randomUUID()}`);
    try {
      await writeEntry(temporary, new TextEncoder().encode(note), chunks());
      await installEntry(temporary, entry);
    } finally {
      await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
    }
  }
  return join(entry, DATA_FILE);
}
