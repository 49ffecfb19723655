// Server-sent events, or lines of JSON, to a client that may read slowly or not at all.

import type { Reply } from "./border.ts";
import { stampProcessingTime } from "./request.ts";
import { jsonParts, sendParts, sumOfBytes } from "./send-json.ts";
import type { Timers } from "./timers.ts";

/** An event of a stream. */
export interface SseEvent {
  /** Name of the event. @default none */
  readonly event?: string;
  /** Id, which a client that reconnects names. @default none */
  readonly id?: string;
  /** Payload, sent as JSON, or a text that is sent as it is. */
  readonly data: object | string;
}

/** Limits of slow readers, and the pause after which a comment is sent, in ms and bytes. */
export interface SseOptions {
  readonly keepAliveMs: number;
  readonly maxBufferedBytes: number;
  readonly slowReaderMs: number;
  readonly timers: Timers;
}

/** Form of a stream: server-sent events, or JSON on lines of its own. */
export type Framing = "events" | "lines";

/** Content type, text of an event, and what keeps a connection open: a comment, or a blank line. */
const FRAMINGS: Readonly<Record<Framing, readonly [type: string, textOf: (event: SseEvent) => string, ping: string]>> =
  {
    events: ["text/event-stream; charset=utf-8", eventText, ": ping\n\n"],
    lines: ["application/x-ndjson; charset=utf-8", ({ data }) => `${payloadOf(data)}\n`, "\n"],
  };

/** Sends nothing, headers included, before the first event: errors before that have a status. */
export class SseWriter {
  readonly #response: Reply;
  readonly #options: SseOptions;
  readonly #framing: Framing;
  #stopKeepAlive: () => void = () => undefined;
  #stopSlowReader: (() => void) | undefined;

  constructor(response: Reply, options: SseOptions, framing: Framing = "events") {
    this.#response = response;
    this.#framing = framing;
    this.#options = options;
    response.on("drain", () => this.#drained());
    response.once("close", () => {
      this.#stopKeepAlive();
      this.#drained();
    });
  }

  /** Sends events in one write. */
  send(...events: readonly SseEvent[]): void {
    const [, textOf] = FRAMINGS[this.#framing];
    if (events.length > 0) this.#write(events.map((event) => textOf(event)).join(""));
  }

  /**
   * Sends the last events and ends the stream. A stream without any event has the status 204: no client reconnects.
   *
   * @returns a promise that resolves when the reader has taken long events or has left
   */
  async end(...events: readonly SseEvent[]): Promise<void> {
    const response = this.#response;
    const parts = events.flatMap((event) => eventParts(event, this.#framing));
    this.#stopKeepAlive();
    if (response.destroyed || response.writableEnded) return;
    if (events.length > 0 && !response.headersSent) this.#setHeaders();
    if (sumOfBytes(parts) > this.#options.maxBufferedBytes) {
      this.#drained();
      await sendParts(response, parts, this.#options);
      return;
    }
    if (parts.length > 0) this.#write(Buffer.concat(parts));
    this.#stopKeepAlive();
    if (!response.headersSent) response.statusCode = 204;
    response.end();
  }

  /** Stops sending comments that keep the connection open. */
  abandon(): void {
    this.#stopKeepAlive();
  }

  #write(text: string | Uint8Array): void {
    const response = this.#response;
    if (response.destroyed || response.writableEnded) return;
    if (!response.headersSent) this.#setHeaders();
    // Without this write, since the last events of a long answer may exceed the limit at once.
    const unreadBytes = response.writableLength;
    const isTaken = response.write(text);
    // Compressing middleware adds `flush`, and would otherwise wait for more data.
    if ("flush" in response && typeof response.flush === "function") response.flush();
    this.#keepAlive();
    if (isTaken) return;
    const { maxBufferedBytes, slowReaderMs, timers } = this.#options;
    if (unreadBytes > maxBufferedBytes) this.#drop();
    else this.#stopSlowReader ??= timers.after(slowReaderMs, () => this.#drop());
  }

  #setHeaders(): void {
    const response = this.#response;
    response.statusCode = 200;
    response.setHeader("Content-Type", FRAMINGS[this.#framing][0]);
    response.setHeader("Cache-Control", "no-cache, no-transform");
    response.setHeader("X-Accel-Buffering", "no");
    // Node sets `Connection`, since it knows requests that asked for `close`, and that HTTP/2 has no such header.
    stampProcessingTime(response);
  }

  #keepAlive(): void {
    const { keepAliveMs, timers } = this.#options;
    this.#stopKeepAlive();
    this.#stopKeepAlive = timers.after(keepAliveMs, () => this.#write(FRAMINGS[this.#framing][2]));
  }

  #drained(): void {
    this.#stopSlowReader?.();
    this.#stopSlowReader = undefined;
  }

  #drop(): void {
    this.#stopKeepAlive();
    this.#response.destroy();
  }
}

/** Returns an event as it is sent. */
function eventText(event: SseEvent): string {
  return `${headOf(event)}${payloadOf(event.data)}\n\n`;
}

/** Returns an event as it is sent, in parts: it may have long lists. */
export function eventParts(event: SseEvent, framing: Framing = "events"): readonly Buffer[] {
  const { data } = event;
  const payload = typeof data === "string" ? [Buffer.from(data)] : jsonParts(data);
  return framing === "lines"
    ? [...payload, Buffer.from("\n")]
    : [Buffer.from(headOf(event)), ...payload, Buffer.from("\n\n")];
}

function headOf({ event, id }: Omit<SseEvent, "data">): string {
  return `${id === undefined ? "" : `id: ${id}\n`}${event === undefined ? "" : `event: ${event}\n`}data: `;
}

function payloadOf(data: SseEvent["data"]): string {
  return typeof data === "string" ? data : JSON.stringify(data);
}
