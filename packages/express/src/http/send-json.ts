// Whole answers to clients that may read slowly or not at all.

import { setImmediate as nextTurn } from "node:timers/promises";
import type { Reply } from "./border.ts";
import type { Timers } from "./timers.ts";

export interface ReaderOptions {
  /** Time in which a reader has to take a slice of the answer, in ms. Slower readers are disconnected. */
  readonly slowReaderMs: number;
  readonly timers: Timers;
}

const SLICE_BYTES = 64 << 10;

export const JSON_TYPE = "application/json; charset=utf-8";

/** Sends an object as JSON, as `sendBytes` does. */
export async function sendJson(response: Reply, body: object, options: ReaderOptions): Promise<void> {
  await sendBytes(response, { bytes: Buffer.from(JSON.stringify(body)), type: JSON_TYPE }, options);
}

/**
 * Sends a body one slice at a time, to observe the reader's progress.
 *
 * @returns a promise that resolves when the reader has taken the body or has left
 */
export async function sendBytes(
  response: Reply,
  { bytes, type }: { readonly bytes: Buffer; readonly type: string },
  options: ReaderOptions,
): Promise<void> {
  response.setHeader("Content-Type", type);
  response.setHeader("Content-Length", bytes.length);
  for (let start = 0; start < bytes.length - SLICE_BYTES && !response.destroyed; start += SLICE_BYTES) {
    // oxlint-disable-next-line no-await-in-loop -- the next slice waits for the reader
    if (!response.write(bytes.subarray(start, start + SLICE_BYTES))) await eventOrClose("drain", response, options);
    // The system may take megabytes at once; other connections have their turn between slices.
    await nextTurn();
  }
  if (response.destroyed) return;
  const lastBytes = bytes.length % SLICE_BYTES || Math.min(bytes.length, SLICE_BYTES);
  const taken = eventOrClose("finish", response, options);
  response.end(bytes.subarray(bytes.length - lastBytes));
  await taken;
}

/**
 * Sends a body that is read as its reader takes it. A body that cannot be read to its end is cut off.
 *
 * @param chunks - as many bytes as the header `content-length` says
 */
export async function sendChunks(
  response: Reply,
  chunks: AsyncIterable<Uint8Array>,
  options: ReaderOptions,
): Promise<void> {
  for await (const chunk of chunks) {
    if (response.destroyed) return;
    if (!response.write(chunk)) await eventOrClose("drain", response, options);
  }
  if (response.destroyed) return;
  const taken = eventOrClose("finish", response, options);
  response.end();
  await taken;
}

/** Resolves on the event or when the connection ends, and ends the connection after `slowReaderMs`. */
function eventOrClose(
  event: "drain" | "finish",
  response: Reply,
  { slowReaderMs, timers }: ReaderOptions,
): Promise<void> {
  return new Promise((resolve) => {
    const stop = timers.after(slowReaderMs, () => response.destroy());
    const done = (): void => {
      stop();
      response.off(event, done);
      response.off("close", done);
      resolve();
    };
    response.once(event, done);
    response.once("close", done);
  });
}

/** Sends a text of at most a few KiB, which fits into the buffers of a connection. */
export function sendText(response: Reply, text: string, contentType: string): void {
  response.setHeader("Content-Type", contentType);
  response.setHeader("Content-Length", Buffer.byteLength(text));
  response.end(text);
}
