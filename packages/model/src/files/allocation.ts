import { ReadMeError } from "@readme-moe/core";

/**
 * Runs `make`, which allocates as much as a file asked for. A file can be larger than any array of
 * this process, and a sparse one costs nothing to make, so this is the file's doing and no caller's mistake.
 * @throws {ReadMeError} `ERR_FILE_UNREADABLE`, beginning with `subject`, when the memory cannot be had
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
