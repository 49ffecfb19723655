// Files that are made once from a model and read piece by piece while it runs, kept in the cache folder.

import { createHash } from "node:crypto";
import { join } from "node:path";
import { removeAbandoned } from "./abandoned.ts";
import { BUILDING, buildEntry, DATA_FILE, isWholeEntry } from "./cache-entry.ts";

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
  if (!(await isWholeEntry(entry))) await buildEntry(folder, entry, new TextEncoder().encode(note), chunks());
  return join(entry, DATA_FILE);
}
