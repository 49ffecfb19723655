import { mkdir } from "node:fs/promises";
import { dirname } from "node:path";

/**
 * Makes a folder and those above it, where they are missing. Not `recursive` of Node, which says ENOENT of a disk that is
 * read-only; this fails with the system's own reason.
 */
export async function makeFolder(path: string): Promise<void> {
  try {
    await makeUnlessThere(path);
  } catch (error) {
    const isRoot = dirname(path) === path;
    if ((error as NodeJS.ErrnoException).code !== "ENOENT" || isRoot) throw error;
    await makeFolder(dirname(path));
    await makeUnlessThere(path);
  }
}

/** What is there may be no folder; whoever uses it gets to know. */
async function makeUnlessThere(path: string): Promise<void> {
  await mkdir(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "EEXIST") throw error;
  });
}
