// Server-sent events, to a client that may read slowly or not at all.

import type { Response } from "express";
import type { ApiError } from "../http/api-error.ts";
import { stampProcessingTime } from "../http/locals.ts";
import type { Timers } from "../http/timers.ts";

export interface SseOptions {
  /** A comment is sent after this long without another event, so that nothing in between gives the connection up. */
  readonly keepAliveMs: number;
  /** What may wait for a slow reader; one that lets more pile up is dropped. */
  readonly maxBufferedBytes: number;
  /** A reader that takes nothing of what waits for this long is dropped. */
  readonly slowReaderMs: number;
  readonly timers: Timers;
}

/** Sends nothing, headers included, before the first event: until then errors have a status. */
export class SseWriter {
  readonly #response: Response;
  readonly #options: SseOptions;
  #stopKeepAlive: () => void = () => undefined;
  #stopWaiting: (() => void) | undefined;

  constructor(response: Response, options: SseOptions) {
    this.#response = response;
    this.#options = options;
    response.on("drain", () => this.#drained());
    response.once("close", () => {
      this.#stopKeepAlive();
      this.#drained();
    });
  }

  /** Events that belong together go out in one write. */
  send(...payloads: readonly object[]): void {
    if (payloads.length > 0) this.#write(payloads.map((payload) => `data: ${JSON.stringify(payload)}\n\n`).join(""));
  }

  end(): void {
    this.#write("data: [DONE]\n\n");
    this.#stopKeepAlive();
    this.#response.end();
  }

  /** Ends a stream that has begun: without `[DONE]`, so that no client takes it for a whole one. */
  fail(error: ApiError): void {
    this.send(error.toJSON());
    this.#stopKeepAlive();
    this.#response.end();
  }

  /** Nothing is to be sent any more. */
  abandon(): void {
    this.#stopKeepAlive();
  }

  #write(text: string): void {
    const response = this.#response;
    if (response.destroyed || response.writableEnded) return;
    if (!response.headersSent) this.#sendHeaders();
    const isTaken = response.write(text);
    // Compressing middleware has it, and would wait for more.
    (response as { flush?: () => void }).flush?.();
    this.#keepAlive();
    if (isTaken) return;
    if (response.writableLength > this.#options.maxBufferedBytes) this.#drop();
    else this.#stopWaiting ??= this.#options.timers.after(this.#options.slowReaderMs, () => this.#drop());
  }

  #sendHeaders(): void {
    const response = this.#response;
    response.status(200);
    response.setHeader("Content-Type", "text/event-stream; charset=utf-8");
    response.setHeader("Cache-Control", "no-cache, no-transform");
    response.setHeader("X-Accel-Buffering", "no");
    // `Connection: keep-alive` is Node's to say: it knows who asked for `close`, and that HTTP/2 has no such header.
    // They go out with what is written next, which is at once.
    stampProcessingTime(response);
  }

  #keepAlive(): void {
    this.#stopKeepAlive();
    this.#stopKeepAlive = this.#options.timers.after(this.#options.keepAliveMs, () => this.#write(": ping\n\n"));
  }

  #drained(): void {
    this.#stopWaiting?.();
    this.#stopWaiting = undefined;
  }

  #drop(): void {
    this.#stopKeepAlive();
    this.#response.destroy();
  }
}
