import { messageOf, ReadMeError } from "@readme-moe/core";

const MAX_QUOTED_LENGTH = 200;

/** Quotes a name from a file for a message: escaped, and cut, since a hostile one can be as long as its file. */
export function quoted(name: string): string {
  return JSON.stringify(cut(name));
}

/** Cuts a text that may be as long as a file. */
export function cut(text: string): string {
  return text.length > MAX_QUOTED_LENGTH ? `${text.slice(0, MAX_QUOTED_LENGTH)}…` : text;
}

export function corrupt(path: string, message: string, options?: ErrorOptions): ReadMeError {
  return new ReadMeError("ERR_FILE_CORRUPT", `${path}: ${message}`, options);
}

export function unsupported(path: string, message: string, options?: ErrorOptions): ReadMeError {
  return new ReadMeError("ERR_MODEL_UNSUPPORTED", `${path}: ${message}`, options);
}

export function invalid(path: string, message: string, options?: ErrorOptions): ReadMeError {
  return new ReadMeError("ERR_MODEL_INVALID", `${path}: ${message}`, options);
}

export function notFound(path: string, message: string, options?: ErrorOptions): ReadMeError {
  return new ReadMeError("ERR_FILE_NOT_FOUND", `${path}: ${message}`, options);
}

/** Translates an error of the system, met when `path` was opened or read. */
export function fileError(path: string, cause: unknown): ReadMeError {
  if (isSystemError(cause, "ENOENT", "ENOTDIR")) {
    return notFound(path, "no such file", { cause });
  }
  const reason = isSystemError(cause, "EISDIR") ? "is a folder, not a file" : `cannot be read (${messageOf(cause)})`;
  return new ReadMeError("ERR_FILE_UNREADABLE", `${path}: ${reason}`, { cause });
}

/** Translates an error met when `path` was written. */
export function writeError(path: string, cause: unknown): ReadMeError {
  return new ReadMeError("ERR_WRITE_FAILED", `${path}: cannot be written (${messageOf(cause)})`, { cause });
}

/** Checks that an error came from the system, with one of some codes. */
export function isSystemError(error: unknown, ...codes: readonly string[]): boolean {
  return error instanceof Error && "code" in error && codes.some((code) => code === error.code);
}

/**
 * Runs `make`, which allocates as much memory as a file asks for. A file, even a sparse one that costs nothing to
 * make, can be larger than any array of this process. So a failure is the fault of the file, not of the caller.
 * @throws {ReadMeError} `ERR_FILE_UNREADABLE`, beginning with `subject`, when there is not enough memory
 */
export function allocateFor<Made>(subject: string, make: () => Made): Made {
  try {
    return make();
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new ReadMeError("ERR_FILE_UNREADABLE", `${subject} needs more memory than one array can have`, {
      cause: error,
    });
  }
}
