// Browsers that look on, over server-sent events. Each gets the newest snapshot when it has taken the one before; what a slow
// reader misses is not kept for it, and one that takes nothing at all is dropped.

import type { Response } from "express";

export interface ReaderOptions {
  /** @default 32 */
  readonly maxReaders?: number | undefined;
  /** A reader that takes nothing for so long is dropped. @default 15,000 */
  readonly slowReaderMs?: number | undefined;
  /** A comment is sent this often. @default 10,000 */
  readonly keepAliveMs?: number | undefined;
}

export class LiveReaders {
  /** Whether each reader still has to take what it was sent, and since when. */
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
    response.on("drain", () => this.#taken(response));
    response.once("close", () => {
      this.#taken(response);
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
    for (const [response, isWaiting] of this.#readers) {
      if (isWaiting || response.write(text)) continue;
      const drop = setTimeout(() => response.destroy(), this.#options.slowReaderMs).unref();
      this.#readers.set(response, drop);
    }
  }

  #taken(response: Response): void {
    clearTimeout(this.#readers.get(response));
    if (this.#readers.has(response)) this.#readers.set(response, undefined);
  }
}
