import { readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";

// Long after the last write of any builder that is still at work.
const ABANDONED_AFTER_MS = 3_600_000;

/**
 * Removes what writers that were killed have left in `folder`, under names that begin with `prefix`. Never fails: what
 * cannot be removed, such as another user's, is no obstacle to those who use the folder.
 */
export async function removeAbandoned(folder: string, prefix: string): Promise<void> {
  for (const name of await readdir(folder).catch(() => [])) {
    if (!name.startsWith(prefix)) continue;
    const path = join(folder, name);
    if (Date.now() - (await lastWriteMs(path)) < ABANDONED_AFTER_MS) continue;
    await rm(path, { recursive: true, force: true }).catch(() => undefined);
  }
}

/** A folder's own time stands still while a large file in it is written. */
async function lastWriteMs(path: string): Promise<number> {
  const inside = await readdir(path).catch(() => []);
  const paths = [path, ...inside.map((name) => join(path, name))];
  // What is gone by now was finished or removed by its writer.
  return Math.max(...(await Promise.all(paths.map((each) => stat(each).then(({ mtimeMs }) => mtimeMs, Date.now)))));
}
