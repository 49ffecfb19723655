// File names of a repository are a stranger's input that becomes paths of this machine.

import { posix, win32 } from "node:path";

/**
 * Why a file of this name cannot be put below a folder, or `undefined` when it can. By the rules of POSIX and of
 * Windows on either, since a cache may move.
 */
export function fileNameProblem(name: string): string | undefined {
  if (/\p{Cc}/u.test(name)) return "has a control character";
  if (name.includes("\\")) return "has a backslash";
  if (posix.isAbsolute(name) || win32.isAbsolute(name) || name.includes(":")) return "is absolute";
  return name.split("/").some((part) => part === "" || part === "." || part === "..")
    ? "has an empty, `.` or `..` part"
    : undefined;
}
