import { mkdir, readdir, rename, rm } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { writeFileAtomically } from "@readme-moe/model";

/** @throws {ReadMeError} `ERR_WRITE_FAILED` unless `path` is a folder that can be made, or is empty */
export async function refuseOccupied(path: string): Promise<void> {
  const names = await readdir(path).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === "ENOENT") return [];
    throw new ReadMeError("ERR_WRITE_FAILED", `${path}: is no folder that a model could be written to`, { cause });
  });
  if (names.length === 0) return;
  throw new ReadMeError("ERR_WRITE_FAILED", `${path}: is not empty; name a folder that does not exist yet`);
}

/**
 * Adds `documents` by name, which may be in folders, and gives the folder its name.
 * @throws {ReadMeError} `ERR_WRITE_FAILED`
 */
export async function finishFolder(
  folder: string,
  out: string,
  documents: Readonly<Record<string, string>>,
): Promise<void> {
  for (const [name, text] of Object.entries(documents)) {
    await mkdir(dirname(join(folder, name)), { recursive: true });
    await writeFileAtomically(join(folder, name), text);
  }
  await refuseOccupied(out);
  try {
    await rm(out, { recursive: true, force: true }); // an empty folder, see above
    await rename(folder, resolve(out));
  } catch (cause) {
    throw new ReadMeError("ERR_WRITE_FAILED", `${out}: cannot be written; the model is in ${folder}`, { cause });
  }
}
