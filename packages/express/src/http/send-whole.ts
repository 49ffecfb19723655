// Whole answers, to a client that may read slowly or not at all.

import type { Response } from "express";
import type { Timers } from "./timers.ts";

export interface ReaderOptions {
  /** A reader that takes no slice of the answer for this long is dropped. */
  readonly slowReaderMs: number;
  readonly timers: Timers;
}

const SLICE_BYTES = 64 << 10;

/**
 * Sends a body as JSON, a slice at a time, so that a reader's progress can be seen.
 * @returns when the reader has taken it, or is gone
 */
export async function sendJson(response: Response, body: object, options: ReaderOptions): Promise<void> {
  const bytes = Buffer.from(JSON.stringify(body));
  response.setHeader("Content-Type", "application/json; charset=utf-8");
  response.setHeader("Content-Length", bytes.length);
  for (let start = 0; start < bytes.length - SLICE_BYTES && !response.destroyed; start += SLICE_BYTES) {
    // oxlint-disable-next-line no-await-in-loop -- the next slice waits for the reader
    if (!response.write(bytes.subarray(start, start + SLICE_BYTES))) await heard("drain", response, options);
  }
  if (response.destroyed) return;
  const rest = bytes.length % SLICE_BYTES || Math.min(bytes.length, SLICE_BYTES);
  const taken = heard("finish", response, options);
  response.end(bytes.subarray(bytes.length - rest));
  await taken;
}

/** Resolves with the event, or when the connection has ended; ends it when that takes too long. */
function heard(event: "drain" | "finish", response: Response, { slowReaderMs, timers }: ReaderOptions): Promise<void> {
  return new Promise((resolve) => {
    const stop = timers.after(slowReaderMs, () => response.destroy());
    const done = (): void => {
      stop();
      response.off(event, done).off("close", done);
      resolve();
    };
    response.once(event, done).once("close", done);
  });
}
