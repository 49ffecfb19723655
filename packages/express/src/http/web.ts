// A request of the web as the API reads it, and its answer as a writable stream of Node.

import { EventEmitter } from "node:events";
import type { ApiName, Incoming, Reply, RequestLocals } from "./request.ts";

interface RequestFacts {
  /** Path that the API is mounted at, without a slash at its end. */
  readonly baseUrl: string;
  /** Address of the client, where the host knows it. */
  readonly address: string | undefined;
  /** Whether hooks get the request of the web, and not this object. @default true */
  readonly isWeb?: boolean;
}

export class WebRequest implements Incoming {
  readonly web: Request | undefined;
  /** Aborts when the client has left. */
  readonly signal: AbortSignal;
  readonly method: string;
  readonly path: string;
  readonly baseUrl: string;
  readonly query: Readonly<Record<string, string | readonly string[]>>;
  readonly headers: Readonly<Record<string, string>>;
  readonly ip: string | undefined;
  params: Record<string, string | string[]> = {};
  route?: { readonly path: string };
  api?: ApiName | undefined;
  body?: unknown;
  readonly #web: Request;
  #isRead: boolean;

  /** @param web - a request whose path begins with `baseUrl` */
  constructor(web: Request, { baseUrl, address, isWeb = true }: RequestFacts) {
    const url = new URL(web.url);
    this.#web = web;
    this.web = isWeb ? web : undefined;
    this.signal = web.signal;
    this.method = web.method;
    this.baseUrl = baseUrl;
    this.path = url.pathname.slice(baseUrl.length) || "/";
    this.query = queryOf(url.searchParams);
    this.headers = headersOf(web);
    this.ip = address;
    this.#isRead = web.body === null;
  }

  get complete(): boolean {
    return this.#isRead;
  }

  get destroyed(): boolean {
    return this.signal.aborted;
  }

  get(name: string): string | undefined {
    return this.headers[name.toLowerCase()];
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void> {
    const reader = this.#web.body?.getReader();
    if (!reader) return;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      yield value;
    }
    this.#isRead = true;
  }

  /** Does nothing: a host sends the answer to a body that is not read, and ends the connection itself. */
  destroy(): void {}
}

/** Returns the headers by name. Adds what not every host states: that a body follows, or that an empty one was sent. */
function headersOf({ headers, body, method }: Request): Readonly<Record<string, string>> {
  const own = Object.fromEntries(headers);
  const isStated = own["content-length"] !== undefined || own["transfer-encoding"] !== undefined;
  if (isStated) return own;
  if (body !== null) return { ...own, "transfer-encoding": "chunked" };
  return method === "POST" ? { ...own, "content-length": "0" } : own;
}

function queryOf(params: URLSearchParams): Readonly<Record<string, string | readonly string[]>> {
  const names = new Set(params.keys());
  return Object.fromEntries(
    Array.from(names, (name) => {
      const [first = "", ...others] = params.getAll(name);
      return [name, others.length === 0 ? first : [first, ...others]];
    }),
  );
}

/** Bytes that may wait for the host before the writer is told to wait. */
const HIGH_WATER_BYTES = 16 << 10;

/** Status of an answer whose client had disconnected. No client sees it. */
const CLIENT_CLOSED = 499;

/**
 * The answer to a web request. What the host has read counts as taken by the reader; hosts read on when their
 * connection has room. The client leaves when the request's signal aborts, or when the host cancels the stream.
 */
export class WebReply extends EventEmitter implements Reply {
  readonly req: WebRequest;
  readonly locals: { readMe?: RequestLocals } = {};
  /** The answer for the host, once its headers are known. */
  readonly response: Promise<Response>;
  statusCode = 200;
  headersSent = false;
  writableEnded = false;
  writableFinished = false;
  destroyed = false;
  closed = false;
  readonly #headers = new Headers();
  #resolve!: (response: Response) => void;
  #controller: ReadableStreamDefaultController<Uint8Array> | undefined;
  #needsDrain = false;
  /** Hosts of a client that left cancel the stream in this turn. They would report its error as one of the server. */
  readonly #onAbort = (): void => this.#end(() => setImmediate(() => this.#controller?.error(cutOff())));

  constructor(request: WebRequest) {
    super();
    this.req = request;
    this.response = new Promise((resolve) => (this.#resolve = resolve));
    const { signal } = request;
    if (signal.aborted) this.#onAbort();
    else signal.addEventListener("abort", this.#onAbort, { once: true });
  }

  get writableLength(): number {
    return this.#controller ? HIGH_WATER_BYTES - (this.#controller.desiredSize ?? HIGH_WATER_BYTES) : 0;
  }

  setHeader(name: string, value: string | number): void {
    this.#headers.set(name, String(value));
  }

  vary(field: string): void {
    this.#headers.append("vary", field);
  }

  write(chunk: string | Uint8Array): boolean {
    if (this.destroyed || this.writableEnded) return false;
    this.#stream().enqueue(bytesOf(chunk));
    this.#needsDrain = this.writableLength >= HIGH_WATER_BYTES;
    return !this.#needsDrain;
  }

  end(chunk?: string | Uint8Array): void {
    if (this.destroyed || this.writableEnded) return;
    this.writableEnded = true;
    const bytes = chunk === undefined ? undefined : bytesOf(chunk);
    if (!this.headersSent && (bytes?.byteLength ?? 0) <= HIGH_WATER_BYTES) {
      // It fits into what may wait for the host.
      this.#begin(bytes);
      this.#finish();
      return;
    }
    const controller = this.#stream();
    if (bytes) controller.enqueue(bytes);
    if (this.writableLength === 0) this.#finish();
  }

  destroy(): void {
    this.#end(() => this.#controller?.error(cutOff()));
  }

  /** Ends an answer that is not complete. @param fail - ends the stream, if it has begun */
  #end(fail: () => void): void {
    if (this.destroyed) return;
    this.destroyed = true;
    if (this.headersSent) fail();
    else {
      this.statusCode = CLIENT_CLOSED;
      this.#begin(undefined);
    }
    this.#close();
  }

  /** Hands the answer to the host. */
  #begin(body: ReadableStream<Uint8Array> | Uint8Array<ArrayBuffer> | undefined): void {
    this.headersSent = true;
    const { statusCode: status, req } = this;
    const hasBody = body !== undefined && status !== 204 && req.method !== "HEAD";
    this.#resolve(new Response(hasBody ? body : null, { status, headers: this.#headers }));
  }

  /** Returns the controller of the body, which is opened at the first call. */
  #stream(): ReadableStreamDefaultController<Uint8Array> {
    if (this.#controller) return this.#controller;
    const opened: ReadableStreamDefaultController<Uint8Array>[] = [];
    const stream = new ReadableStream<Uint8Array>(
      {
        start: (controller) => void opened.push(controller),
        pull: () => this.#taken(),
        cancel: () => this.destroy(),
      },
      { highWaterMark: HIGH_WATER_BYTES, size: (chunk) => chunk.byteLength },
    );
    [this.#controller] = opened;
    if (!this.#controller) throw new TypeError("Expected the stream to start at once");
    this.#begin(stream);
    return this.#controller;
  }

  #taken(): void {
    if (this.destroyed || this.writableLength > 0) return;
    if (this.writableEnded) this.#finish();
    else if (this.#needsDrain) {
      this.#needsDrain = false;
      this.emit("drain");
    }
  }

  #finish(): void {
    this.#controller?.close();
    this.writableFinished = true;
    this.destroyed = true;
    queueMicrotask(() => this.emit("finish"));
    this.#close();
  }

  #close(): void {
    this.req.signal.removeEventListener("abort", this.#onAbort);
    queueMicrotask(() => {
      this.closed = true;
      this.emit("close");
    });
  }
}

function cutOff(): Error {
  return new Error("The answer was cut off");
}

/** Copies a text or a view, since hosts may keep or transfer what they get. */
function bytesOf(chunk: string | Uint8Array): Uint8Array<ArrayBuffer> {
  return typeof chunk === "string" ? new TextEncoder().encode(chunk) : new Uint8Array(chunk);
}
