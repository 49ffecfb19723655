// A downloaded model names other files of its folder. Such a name is a stranger's input.

import { realpath } from "node:fs/promises";
import { dirname, join, posix, relative, sep, win32 } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { fileError } from "./file-error.ts";
import { quoted } from "./quoted.ts";

// `<cache>/models--org--name/snapshots/<revision>/…`: files there are links into `<cache>/models--org--name/blobs`, and
// those may be links into `<cache>/blobs`, which all repositories share.
const HUGGING_FACE_SNAPSHOT = /^(?<repository>.*[/\\]models--[^/\\]+)[/\\]snapshots[/\\][^/\\]+(?:[/\\]|$)/;

/**
 * Resolves a file name that a model gives against the model's folder.
 *
 * The file has to lie in the folder, also after following symbolic links; in a snapshot of the Hugging
 * Face cache it may lie in that repository's blobs, or in the cache's.
 *
 * @param namedBy - the file that contains `name`, for messages
 * @returns the path within `folder`, links not resolved
 * @throws {ReadMeError} `ERR_FILE_CORRUPT` when the name leads elsewhere; `ERR_FILE_NOT_FOUND` when nothing is there
 */
export async function resolveInside(folder: string, name: string, namedBy: string): Promise<string> {
  const problem = problemOf(name);
  if (problem !== undefined)
    throw new ReadMeError("ERR_FILE_CORRUPT", `${namedBy}: the file name ${quoted(name)} ${problem}`);
  const path = join(folder, name);
  const [realFolder, target] = await Promise.all([
    realPathOf(folder),
    realPathOf(path, `${namedBy} names ${quoted(name)}`),
  ]);
  const repository = HUGGING_FACE_SNAPSHOT.exec(realFolder)?.groups?.["repository"];
  const blobs = repository === undefined ? [] : [join(repository, "blobs"), join(dirname(repository), "blobs")];
  if ([realFolder, ...blobs].some((allowed) => isWithin(allowed, target))) return path;
  throw new ReadMeError(
    "ERR_FILE_CORRUPT",
    `${namedBy}: the file name ${quoted(name)} is a link that leads out of ${folder}`,
  );
}

function problemOf(name: string): string | undefined {
  if (name === "") return "is empty";
  if (name.includes("\0")) return "contains a NUL character";
  if (name.includes("\\")) return "contains a backslash";
  if (posix.isAbsolute(name) || win32.isAbsolute(name) || /^[A-Za-z]:/.test(name)) return "is absolute";
  return name.split("/").some((part) => part === "" || part === "." || part === "..")
    ? "has an empty, `.` or `..` part"
    : undefined;
}

async function realPathOf(path: string, context?: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    const problem = fileError(path, error);
    throw context === undefined
      ? problem
      : new ReadMeError(problem.code, `${context}: ${problem.message}`, { cause: error });
  }
}

function isWithin(folder: string, path: string): boolean {
  const way = relative(folder, path);
  // On Windows the way to another drive is an absolute path.
  return way !== "" && way !== ".." && !way.startsWith(`..${sep}`) && !win32.isAbsolute(way) && !posix.isAbsolute(way);
}
