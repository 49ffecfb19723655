// Answers on their way to the client: JSON in parts, and streams of events with the ids that a client goes on from.
// Slow readers are disconnected.

import { createHash, randomUUID } from "node:crypto";
import { setImmediate as nextTurn } from "node:timers/promises";
import { type ApiError, refusal } from "./errors.ts";
import { type Reply, stampProcessingTime, type Timers } from "./request.ts";

export interface ReaderOptions {
  /** Time in which a reader has to take a slice of the answer, in ms. Slower readers are disconnected. */
  readonly slowReaderMs: number;
  readonly timers: Timers;
}

const SLICE_BYTES = 64 << 10;
/** Characters of a list's pieces. */
const PIECE_CHARACTERS = 16 << 10;

/** Lists of the body that is being written, and the text that stands for each. */
let written: { readonly mark: string; readonly lists: JsonList<unknown>[] } | undefined;

/** A list as JSON, which grows in few pieces: as objects it could take many times the memory. */
export class JsonList<Item> {
  readonly #pieces: Buffer[] = [];
  #last = "";
  #bytes = 0;

  get bytes(): number {
    return this.#bytes + 2;
  }

  push(...items: readonly Item[]): void {
    for (const item of items) {
      const text = `${this.#bytes > 0 ? "," : ""}${JSON.stringify(item)}`;
      this.#bytes += Buffer.byteLength(text);
      this.#last += text;
      if (this.#last.length >= PIECE_CHARACTERS) this.#seal();
    }
  }

  append(other: JsonList<Item>): void {
    if (other.#bytes === 0) return;
    const comma = this.#bytes > 0 ? "," : "";
    this.#bytes += comma.length + other.#bytes;
    this.#last += comma;
    if (other.#pieces.length > 0) this.#seal();
    this.#pieces.push(...other.#pieces);
    this.#last += other.#last;
    if (this.#last.length >= PIECE_CHARACTERS) this.#seal();
  }

  /** Returns its JSON in pieces. */
  parts(): readonly Buffer[] {
    this.#seal();
    return [Buffer.from("["), ...this.#pieces, Buffer.from("]")];
  }

  /** Returns itself as the list that it is in JSON, and only there. */
  asItems(): Item[] {
    return this as unknown as Item[];
  }

  toJSON(): unknown {
    if (!written) return JSON.parse(Buffer.concat(this.parts()).toString());
    written.lists.push(this);
    return written.mark;
  }

  #seal(): void {
    if (this.#last !== "") this.#pieces.push(Buffer.from(this.#last));
    this.#last = "";
  }
}

/** Returns a value as JSON in pieces. Its lists are not written again. */
export function jsonParts(value: object): readonly Buffer[] {
  // No text of a client contains it.
  const mark = randomUUID();
  const lists: JsonList<unknown>[] = [];
  written = { mark, lists };
  try {
    const texts = JSON.stringify(value).split(`"${mark}"`);
    return texts.flatMap((text, index) => [Buffer.from(text), ...(lists[index]?.parts() ?? [])]);
  } finally {
    written = undefined;
  }
}

export const JSON_TYPE = "application/json; charset=utf-8";

export async function sendJson(response: Reply, body: object, options: ReaderOptions): Promise<void> {
  await sendBytes(response, { parts: jsonParts(body), type: JSON_TYPE }, options);
}

/** Time after which the first space is sent: proxies give up after 30 s without a byte. */
const SILENT_MS = 25_000;

/**
 * Keeps the connection of JSON that takes long open: sends headers, and spaces, which JSON may begin with. The status
 * is 200 from the first space on, and an error cuts the answer off. @returns a function that stops it
 */
export function keepOpen(
  response: Reply,
  { keepAliveMs, timers }: Pick<SseOptions, "keepAliveMs" | "timers">,
): () => void {
  const beat = (): void => {
    if (response.destroyed || response.writableEnded) return;
    if (!response.headersSent) {
      response.setHeader("Content-Type", JSON_TYPE);
      stampProcessingTime(response);
    }
    response.write(" ");
    flush(response);
    stop = timers.after(keepAliveMs, beat);
  };
  let stop = timers.after(SILENT_MS, beat);
  return () => stop();
}

/** Sends what compressing middleware holds back: it adds `flush`, and waits for more data otherwise. */
function flush(response: Reply): void {
  if ("flush" in response && typeof response.flush === "function") response.flush();
}

/** Sends a body as `sendSlices` does, with its type and length where headers are not sent yet. */
export async function sendBytes(
  response: Reply,
  { parts, type }: { readonly parts: readonly Uint8Array[]; readonly type: string },
  options: ReaderOptions,
): Promise<void> {
  if (!response.headersSent) {
    response.setHeader("Content-Type", type);
    response.setHeader("Content-Length", sumOfBytes(parts));
  }
  await sendSlices(response, slicesOf(parts), options);
}

export function sumOfBytes(parts: readonly Uint8Array[]): number {
  return parts.reduce((sum, part) => sum + part.length, 0);
}

/**
 * Sends a body one slice at a time, to observe the reader's progress. A body that cannot be read to its end is cut off.
 *
 * @param slices - as many bytes as the header `content-length` says
 * @returns a promise that resolves when the reader has taken the body or has left
 */
export async function sendSlices(
  response: Reply,
  slices: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
  options: ReaderOptions,
): Promise<void> {
  let last: Uint8Array | undefined;
  for await (const slice of slices) {
    if (response.destroyed) return;
    if (last && !response.write(last)) await eventOrClose("drain", response, options);
    // The system may take megabytes at once; other connections have their turn between slices.
    if (last) await nextTurn();
    last = slice;
  }
  if (response.destroyed) return;
  const taken = eventOrClose("finish", response, options);
  response.end(last);
  await taken;
}

/** Joins and cuts parts to slices. */
function* slicesOf(parts: readonly Uint8Array[]): Generator<Uint8Array> {
  let [held, numHeld]: [Uint8Array[], number] = [[], 0];
  for (const part of parts) {
    for (let start = 0; start < part.length; start += SLICE_BYTES) {
      const piece = part.subarray(start, start + SLICE_BYTES);
      if (numHeld + piece.length > SLICE_BYTES) {
        yield joined(held);
        [held, numHeld] = [[], 0];
      }
      held.push(piece);
      numHeld += piece.length;
    }
  }
  yield joined(held);
}

function joined(pieces: readonly Uint8Array[]): Uint8Array {
  const [first] = pieces;
  return first && pieces.length === 1 ? first : Buffer.concat(pieces);
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

/** An event of a stream. */
export interface SseEvent {
  /** Name of the event. @default none */
  readonly event?: string;
  /** Id, which a client that reconnects names. @default none */
  readonly id?: string;
  /** Payload, sent as JSON, or a text that is sent as it is. */
  readonly data: object | string;
}

/** Limits of slow readers, and the pause after which something keeps the connection open, in ms and bytes. */
interface SseOptions {
  readonly keepAliveMs: number;
  readonly maxBufferedBytes: number;
  readonly slowReaderMs: number;
  readonly timers: Timers;
}

/** Form of a stream: server-sent events, or JSON on lines of its own. */
export type Framing = "events" | "lines";

/** Content type, text of an event, and that of a comment. */
type FramingParts = readonly [
  type: string,
  textOf: (event: SseEvent) => string,
  commentOf: (comment: string) => string,
];

const FRAMINGS: Readonly<Record<Framing, FramingParts>> = {
  events: ["text/event-stream; charset=utf-8", eventText, (comment) => `: ${comment}\n\n`],
  // Clients parse every line: a space is the beginning of the next one.
  lines: ["application/x-ndjson; charset=utf-8", ({ data }) => `${payloadOf(data)}\n`, () => " "],
};

/** Comment that keeps a connection open between two events. */
const PING = "ping";

/** Form of a stream, and of what keeps it open. */
interface StreamForm {
  /** @default "events" */
  readonly framing?: Framing;
  /** @default a comment */
  readonly ping?: SseEvent;
}

/** Sends nothing, headers included, before the first event or `wait`: errors before that have a status. */
export class SseWriter {
  readonly #response: Reply;
  readonly #options: SseOptions;
  readonly #framing: Framing;
  readonly #ping: SseEvent | undefined;
  #comment = PING;
  #isWaiting = false;
  #stopKeepAlive: () => void = () => undefined;
  #stopSlowReader: (() => void) | undefined;

  constructor(response: Reply, options: SseOptions, { framing = "events", ping }: StreamForm = {}) {
    this.#response = response;
    this.#framing = framing;
    this.#ping = ping;
    this.#options = options;
    response.on("drain", () => this.#drained());
    response.once("close", () => {
      this.#stopKeepAlive();
      this.#drained();
    });
  }

  /**
   * Keeps the connection open before the first event.
   *
   * @param comment - tells the client what it waits for, where the form has comments
   * @param isLong - whether headers and a first comment are sent at once, and not after the first pause
   */
  wait(comment: string, isLong: boolean): void {
    this.#comment = comment;
    if (this.#response.destroyed) return;
    if (isLong && !this.#response.headersSent) this.#beat();
    else if (!this.#isWaiting) this.#keepAlive();
    this.#isWaiting = true;
  }

  send(...events: readonly SseEvent[]): void {
    const [, textOf] = FRAMINGS[this.#framing];
    if (events.length === 0) return;
    this.#comment = PING;
    this.#write(events.map((event) => textOf(event)).join(""));
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
      await sendSlices(response, slicesOf(parts), this.#options);
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
    flush(response);
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
    this.#stopKeepAlive = timers.after(keepAliveMs, () => this.#beat());
  }

  #beat(): void {
    const [, textOf, commentOf] = FRAMINGS[this.#framing];
    this.#write(this.#ping ? textOf(this.#ping) : commentOf(this.#comment));
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

function eventText(event: SseEvent): string {
  return `${headOf(event)}${payloadOf(event.data)}\n\n`;
}

/** Returns an event as it is sent, in parts: it may have long lists. */
function eventParts(event: SseEvent, framing: Framing = "events"): readonly Buffer[] {
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

export interface StreamPlace {
  readonly answerId: string;
  /** Seconds since 1970 that the answer is dated with. */
  readonly created: number;
  /** Events up to the place. */
  readonly numEvents: number;
  /** Hash of these events. */
  readonly check: string;
}

const EVENT_ID = /^([\w-]{1,100}):(\d{1,12}):([1-9]\d{0,8}):([0-9a-f]{16})$/;

/** Reads the header `Last-Event-ID`. @throws {ApiError} 404 for what is no id of an event */
export function readEventId(header: string | undefined): StreamPlace | undefined {
  if (header === undefined || header === "") return undefined;
  const [, answerId, created, numEvents, check] = EVENT_ID.exec(header) ?? [];
  if (answerId === undefined || check === undefined) throw streamNotFound();
  return { answerId, created: Number(created), numEvents: Number(numEvents), check };
}

/** Creates the error of a stream that is not kept, belongs to another client, or began with another body. */
export function streamNotFound(): ApiError {
  const message = "There is no stream of this request with this Last-Event-ID; send the request without the header";
  return refusal(404, "stream_not_found", message);
}

/**
 * Numbers the events of one stream, and leaves out those that its client has. Each id has a hash of all events up to
 * its own, so that a stream goes on exactly where it ended, or not at all.
 */
export class EventNumbering {
  readonly #about: Pick<StreamPlace, "answerId" | "created">;
  readonly #known: Pick<StreamPlace, "numEvents" | "check">;
  #numEvents = 0;
  #check = "";

  /** @param known - place up to which the client has the stream. @default the beginning */
  constructor(about: Pick<StreamPlace, "answerId" | "created">, known?: StreamPlace) {
    this.#about = about;
    this.#known = known ?? { numEvents: 0, check: "" };
  }

  /** Whether the next event is one that the client has. */
  get isReplaying(): boolean {
    return this.#numEvents < this.#known.numEvents;
  }

  /**
   * Takes the next events of the stream.
   *
   * @returns those that the client does not have, with their ids
   * @throws {ApiError} 404 if those that it has are others
   */
  take(events: readonly SseEvent[]): readonly SseEvent[] {
    return events.flatMap((event) => {
      const wasReplaying = this.isReplaying;
      this.#numEvents++;
      const hash = createHash("sha256").update(this.#check);
      for (const part of eventParts(event)) hash.update(part);
      this.#check = hash.digest("hex").slice(0, 16);
      if (!wasReplaying) return [{ ...event, id: this.#id() }];
      if (!this.isReplaying && this.#check !== this.#known.check) throw streamNotFound();
      return [];
    });
  }

  #id(): string {
    const { answerId, created } = this.#about;
    return `${answerId}:${created}:${this.#numEvents}:${this.#check}`;
  }
}
