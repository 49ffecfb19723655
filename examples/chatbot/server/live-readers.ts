// Readers of the live view, over server-sent events. Each gets the newest snapshot after it has read the one before: a
// slow reader misses snapshots, and one that reads nothing is disconnected.

import type { Response } from "express";

export interface ReaderOptions {
  /** @default 32 */
  readonly maxReaders?: number | undefined;
  /** Time without reading after which a reader is disconnected. @default 15,000 */
  readonly slowReaderMs?: number | undefined;
  /** Interval of comments that keep connections open. @default 10,000 */
  readonly keepAliveMs?: number | undefined;
}

export class LiveReaders {
  /** Timers that disconnect readers with unread data; `undefined` for readers without. */
  readonly #readers = new Map<Response, NodeJS.Timeout | undefined>();
  readonly #options: Required<{ [Name in keyof ReaderOptions]: number }>;
  #keepAlive: NodeJS.Timeout | undefined;

  constructor({ maxReaders = 32, slowReaderMs = 15_000, keepAliveMs = 10_000 }: ReaderOptions = {}) {
    this.#options = { maxReaders, slowReaderMs, keepAliveMs };
  }

  get size(): number {
    return this.#readers.size;
  }

  get isFull(): boolean {
    return this.#readers.size >= this.#options.maxReaders;
  }

  add(response: Response): void {
    response.status(200).set({
      "Content-Type": "text/event-stream; charset=utf-8",
      "Cache-Control": "no-cache, no-transform",
      "X-Accel-Buffering": "no",
    });
    response.write("retry: 1000\n\n");
    this.#readers.set(response, undefined);
    response.on("drain", () => this.#hasRead(response));
    response.once("close", () => {
      this.#hasRead(response);
      this.#readers.delete(response);
      if (this.size === 0) clearInterval(this.#keepAlive);
    });
    if (this.size === 1) {
      this.#keepAlive = setInterval(() => this.#send(": ping\n\n"), this.#options.keepAliveMs).unref();
    }
  }

  send(snapshot: object): void {
    this.#send(`data: ${JSON.stringify(snapshot)}\n\n`);
  }

  #send(text: string): void {
    for (const [response, hasUnread] of this.#readers) {
      if (hasUnread || response.write(text)) continue;
      const drop = setTimeout(() => response.destroy(), this.#options.slowReaderMs).unref();
      this.#readers.set(response, drop);
    }
  }

  #hasRead(response: Response): void {
    clearTimeout(this.#readers.get(response));
    if (this.#readers.has(response)) this.#readers.set(response, undefined);
  }
}
