import { randomUUID } from "node:crypto";
import { type FileHandle, open, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { renamePatiently } from "./rename.ts";

// One write of the system takes at most 2 GiB - 4 KiB, and libuv refuses more than an int32.
const MAX_PIECE_BYTES = 2 ** 30;

/** Names of files that are being written, or were when their writer was killed, begin with it. */
export const TEMPORARY_PREFIX = ".readme-moe-";

/**
 * Writes a file whole or not at all: into a temporary file of the same folder, which then takes the
 * place of `path`. Until then a file already at `path` stays as it was.
 *
 * @param content - the text (as UTF-8), the bytes, or chunks of bytes, each asked for once the one before is written
 * @throws {ReadMeError} `ERR_WRITE_FAILED`, also when `content` throws; its `cause` is the error underneath,
 *   and nothing is left behind
 */
export async function writeFileAtomically(
  path: string,
  content: string | Uint8Array | Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
): Promise<void> {
  // In the same folder, since a rename across file systems is a copy. Independent of the target's name, which may already be as long as names can be.
  const temporary = join(dirname(path), `${TEMPORARY_PREFIX}${randomUUID()}.tmp`);
  let handle: FileHandle | undefined;
  try {
    handle = await open(temporary, "wx");
    for await (const chunk of chunksOf(content)) await writeAll(handle, chunk);
    // Otherwise a crash of the machine can leave the new name on an empty file.
    await handle.sync();
    await handle.close();
    handle = undefined;
    await renamePatiently(temporary, path);
  } catch (cause) {
    // What went wrong first is what the caller has to know; a failing clean-up must not hide it.
    await handle?.close().catch(() => undefined);
    await rm(temporary, { force: true }).catch(() => undefined);
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ReadMeError("ERR_WRITE_FAILED", `${path}: cannot be written (${reason})`, { cause });
  }
}

function chunksOf(
  content: string | Uint8Array | Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
): Iterable<Uint8Array> | AsyncIterable<Uint8Array> {
  if (typeof content === "string") return [new TextEncoder().encode(content)];
  return content instanceof Uint8Array ? [content] : content;
}

async function writeAll(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  let done = 0;
  while (done < bytes.byteLength) {
    const piece = Math.min(bytes.byteLength - done, MAX_PIECE_BYTES);
    done += (await handle.write(bytes, done, piece)).bytesWritten;
  }
}
