// Downloads one file. @huggingface/hub also can, but it starts over after every interruption, checks no hash, and
// leaves an incomplete file under its final name when the connection ends without an error (2.17.5).

import { dirname } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { writeError } from "../files/errors.ts";
import { makeFolder } from "../files/write-file.ts";
import { fileSize } from "./hub-cache.ts";
import { type HubClient, type HubResponse, reasonOf, retrying, TransientFailure } from "./hub-client.ts";
import type { RemoteFile } from "./hub-repository.ts";
import type { DownloadRequest } from "./options.ts";
import { PartialFile } from "./partial-file.ts";

// An attempt that transfers this much counts as a success: large files over bad lines take many attempts.
const WORTHWHILE_BYTES = 1 << 20;

type Context = Pick<DownloadRequest, "onProgress" | "signal" | "delay"> & { readonly client: HubClient };

/**
 * Downloads a file to `blobPath`, unless it is there. Continues where an earlier download was interrupted.
 *
 * @throws {ReadMeError} `ERR_FILE_CORRUPT` when the content has the wrong hash or size twice, `ERR_WRITE_FAILED`, or
 *   the meaning of the hub's refusal; `blobPath` is then unchanged
 */
export async function fetchBlob(file: RemoteFile, blobPath: string, context: Context): Promise<void> {
  const folder = dirname(blobPath);
  await makeFolder(folder).catch((cause: unknown) => {
    throw writeError(folder, cause);
  });
  await exclusively(blobPath, context.signal, async () => {
    if ((await fileSize(blobPath)) === file.size) return;
    const partial = await PartialFile.open(blobPath, file, context.signal);
    try {
      await receiveRight(partial, file, context);
      await partial.finish();
    } catch (error) {
      // The caller has to know the first error, which a failing clean-up must not hide.
      const isDiskAtFault = error instanceof ReadMeError && error.code === "ERR_WRITE_FAILED";
      await (isDiskAtFault ? partial.discard() : partial.leave()).catch(() => undefined);
      throw error;
    }
  });
}

async function receiveRight(partial: PartialFile, file: RemoteFile, context: Context): Promise<void> {
  for (let isSecond = false; ; isSecond = true) {
    await retrying(() => receiveRest(partial, file, context), context);
    const problem = partial.problem();
    if (problem === undefined) return;
    await partial.restart();
    if (isSecond) {
      throw new ReadMeError("ERR_FILE_CORRUPT", `${file.url}: the downloaded content ${problem} (tried twice)`);
    }
  }
}

async function receiveRest(partial: PartialFile, file: RemoteFile, context: Context): Promise<void> {
  const from = partial.doneBytes;
  context.onProgress({ file: file.name, doneBytes: from, ofBytes: file.size });
  if (from >= file.size) return;
  // Compressed content could be neither counted nor continued.
  const headers = { "accept-encoding": "identity", ...(from > 0 ? { range: `bytes=${from}-` } : {}) };
  const answer = await context.client.get(file.url, headers);
  if (from > 0 && !isContinuation(answer, from, file)) {
    await partial.restart();
    if (answer.response.status !== 200) {
      await answer.response.body?.cancel();
      return receiveRest(partial, file, context);
    }
  }
  await receiveBody(partial, answer.response, file, context);
}

async function receiveBody(
  partial: PartialFile,
  response: Response,
  file: RemoteFile,
  { onProgress }: Context,
): Promise<void> {
  const from = partial.doneBytes;
  const cut = (reason: string, cause?: unknown): TransientFailure => {
    const message = `${file.url}: the connection was cut at byte ${partial.doneBytes} of ${file.size} (${reason})`;
    return new TransientFailure(new ReadMeError("ERR_HUB_UNREACHABLE", message, { cause }), {
      isWorthwhile: partial.doneBytes - from >= WORTHWHILE_BYTES,
    });
  };
  if (response.body === null) throw cut("the answer has no content");
  const reader = response.body.getReader();
  try {
    while (partial.doneBytes <= file.size) {
      const { value, done } = await reader.read().catch((cause: unknown) => {
        throw cut(reasonOf(cause), cause);
      });
      if (done) break;
      await partial.append(value);
      onProgress({ file: file.name, doneBytes: partial.doneBytes, ofBytes: file.size });
    }
  } finally {
    // Ends the connection when the loop ended early. A body that has failed fails again.
    await reader.cancel().catch(() => undefined);
  }
  if (partial.doneBytes < file.size) throw cut("the answer ended");
}

/** Checks that an answer is the rest, from byte `from` on, of the content whose beginning is there. */
function isContinuation({ response, etag }: HubResponse, from: number, { size, oid }: RemoteFile): boolean {
  if (response.status !== 206 || (etag !== undefined && etag !== oid)) return false;
  return response.headers.get("content-range") === `bytes ${from}-${size - 1}/${size}`;
}

const running = new Map<string, Promise<void>>();

/** Runs `work` when no other work of this process runs under `key`. The wait can be aborted. */
export async function exclusively<Result>(
  key: string,
  signal: AbortSignal | undefined,
  work: () => Promise<Result>,
): Promise<Result> {
  for (let other = running.get(key); other !== undefined; other = running.get(key)) await unlessAborted(other, signal);
  const result = work();
  const end = result.then(
    () => undefined,
    () => undefined,
  );
  running.set(key, end);
  try {
    return await result;
  } finally {
    running.delete(key);
  }
}

async function unlessAborted(promise: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (signal === undefined) return promise;
  signal.throwIfAborted();
  const listening = new AbortController();
  const aborted = new Promise<void>((resolve) => {
    signal.addEventListener("abort", () => resolve(), { signal: listening.signal });
  });
  await Promise.race([promise, aborted]);
  listening.abort();
  signal.throwIfAborted();
}
