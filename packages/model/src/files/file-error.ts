import { ReadMeError } from "@readme-moe/core";

/** What a failed file operation of the system on `path` means to a reader of it. */
export function fileError(path: string, cause: unknown): ReadMeError {
  const code = cause instanceof Error && "code" in cause ? cause.code : undefined;
  if (code === "ENOENT" || code === "ENOTDIR")
    return new ReadMeError("ERR_FILE_NOT_FOUND", `${path}: no such file`, { cause });
  const reason =
    code === "EISDIR"
      ? "is a folder, not a file"
      : `cannot be read (${cause instanceof Error ? cause.message : String(cause)})`;
  return new ReadMeError("ERR_FILE_UNREADABLE", `${path}: ${reason}`, { cause });
}
