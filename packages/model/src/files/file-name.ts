// File names in a downloaded model or a repository are untrusted input that becomes paths of this machine.

import { realpath } from "node:fs/promises";
import { dirname, join, posix, relative, sep, win32 } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { corrupt, fileError, quoted } from "./errors.ts";

// `<cache>/models--org--name/snapshots/<revision>/…`: files there are links into `<cache>/models--org--name/blobs`, and
// those may be links into `<cache>/blobs`, which all repositories share.
const HUGGING_FACE_SNAPSHOT = /^(?<repository>.*[/\\]models--[^/\\]+)[/\\]snapshots[/\\][^/\\]+(?:[/\\]|$)/;

// No system opens longer paths, and errors name them whole.
const MAX_NAME_LENGTH = 1024;

/**
 * Resolves a file name that a model gives against the model's folder.
 *
 * The file has to be in the folder, also after following symbolic links. In a snapshot of the Hugging Face cache it may
 * be in the blobs of that repository, or of the cache.
 *
 * @param namedBy - the file that contains `name`, for messages
 * @returns the path within `folder`, links not resolved
 * @throws {ReadMeError} `ERR_FILE_CORRUPT` when the name leads elsewhere; `ERR_FILE_NOT_FOUND` without such a file
 */
export async function resolveInside(folder: string, name: string, namedBy: string): Promise<string> {
  const problem = nameProblem(name);
  if (problem !== undefined) throw corrupt(namedBy, `the file name ${quoted(name)} ${problem}`);
  const path = join(folder, name);
  const [realFolder, target] = await Promise.all([
    realPathOf(folder),
    realPathOf(path, `${namedBy} names ${quoted(name)}`),
  ]);
  const repository = HUGGING_FACE_SNAPSHOT.exec(realFolder)?.groups?.["repository"];
  const blobs = repository === undefined ? [] : [join(repository, "blobs"), join(dirname(repository), "blobs")];
  if ([realFolder, ...blobs].some((allowed) => isWithin(allowed, target))) return path;
  throw corrupt(namedBy, `the file name ${quoted(name)} is a link that leads out of ${folder}`);
}

/** Returns why a file of this name cannot be in a model's folder, or `undefined` when it can. */
function nameProblem(name: string): string | undefined {
  if (name === "") return "is empty";
  if (name.length > MAX_NAME_LENGTH) return `has more than ${MAX_NAME_LENGTH} characters`;
  if (name.includes("\0")) return "contains a NUL character";
  if (name.includes("\\")) return "contains a backslash";
  if (posix.isAbsolute(name) || win32.isAbsolute(name) || /^[A-Za-z]:/.test(name)) return "is absolute";
  return name.split("/").some((part) => part === "" || part === "." || part === "..")
    ? "has an empty, `.` or `..` part"
    : undefined;
}

/**
 * Returns why a file of a repository cannot be in the cache, or `undefined` when it can. The rules of POSIX and of
 * Windows hold on both, since a cache may move.
 */
export function repositoryNameProblem(name: string): string | undefined {
  if (/\p{Cc}/u.test(name)) return "contains a control character";
  return nameProblem(name) ?? (name.includes(":") ? "contains a colon" : undefined);
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

/** Whether a path leads into a folder. Both are absolute. */
export function isWithin(folder: string, path: string): boolean {
  const way = relative(folder, path);
  // On Windows the way to another drive is an absolute path.
  return way !== "" && way !== ".." && !way.startsWith(`..${sep}`) && !win32.isAbsolute(way) && !posix.isAbsolute(way);
}
