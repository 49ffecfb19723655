import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onTestFinished } from "vitest";

const persistent: string[] = [];

/** Removes the folders of a file of tests; `set-up.ts` calls it at the file's end. */
export async function removePersistentFolders(): Promise<void> {
  for (const folder of persistent.splice(0)) await rm(folder, { recursive: true, force: true });
}

/** A new empty folder that is removed when the running test ends. */
export async function temporaryFolder(): Promise<string> {
  const folder = await newFolder();
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** A new empty folder that is removed when the running file of tests ends. */
export async function persistentFolder(): Promise<string> {
  const folder = await newFolder();
  persistent.push(folder);
  return folder;
}

function newFolder(): Promise<string> {
  return mkdtemp(join(tmpdir(), "readme-moe-test-"));
}

/** Finds the packed file of a model with experts, beside that of its router: its header has their number. */
export async function packedExperts(cacheFolder: string): Promise<string> {
  const folder = join(cacheFolder, "kernels");
  for (const entry of await readdir(folder)) {
    const file = join(folder, entry, "weights.bin");
    if ((await readFile(file)).readInt32LE(60) > 1) return file;
  }
  throw new Error(`Expected packed experts in ${folder}`);
}
