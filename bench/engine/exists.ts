import { access } from "node:fs/promises";

/** Returns whether a file or folder exists. Those of the cache are written whole or not at all. */
export async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
