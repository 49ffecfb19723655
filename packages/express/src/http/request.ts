// A request and its answer, as far as the API uses them; a request's turn on its connection, its id and its client.
// Express' own pair conforms to both interfaces; `web.ts` implements them over `Request` and `Response` of the web.

import { randomUUID } from "node:crypto";
import { isIPv6, type Socket } from "node:net";
import type { RequestHandler } from "express";
import { LIMITS } from "../limits.ts";

/** A line of a batch that runs as a request. */
export interface BatchLine {
  /** Id of the batch. */
  readonly id: string;
  /** Name that the line has in the batch. */
  readonly customId: string;
  /** Priority that the line gets, whatever its body says. */
  readonly priority: number;
}

/** State of a request in `res.locals.readMe`, shared by middleware and routes. */
export interface RequestLocals {
  /** Name of the client's API key, on servers that ask for keys. */
  key?: string | undefined;
  readonly requestId: string;
  /** Time of arrival on the monotonic clock `performance.now()`, in ms. */
  readonly arrivalMs: number;
  /** Charges tokens to the client's rate limit. Called as soon as their number is known. */
  spendTokens?: (tokens: number) => void;
  /** Valid `traceparent` header of the client, see https://www.w3.org/TR/trace-context. */
  traceparent?: string;
  /** Releases the room that admission reserved while the body arrived. */
  endArrival?: () => void;
  /** Size of the body in bytes, once it was read. */
  bodyBytes?: number;
  /** Time at which the whole body had arrived, on the monotonic clock, in ms. */
  wholeMs?: number;
  /** Whether an engine computes the answer. */
  runsEngine?: boolean;
  /** The batch whose line this is. */
  batch?: BatchLine;
  /** Error that the request ended with, for middleware that logs. */
  error?: unknown;
}

/** An API that clients speak. Its errors have a shape of their own. */
export type ApiName = "openai" | "messages" | "ollama";

/** A request. Iterating over it reads the bytes of its body. */
export interface Incoming extends AsyncIterable<Uint8Array> {
  readonly method: string;
  /** Path below `baseUrl`, still percent-encoded. */
  readonly path: string;
  /** Path that the API is mounted at, without a slash at its end. */
  readonly baseUrl: string;
  readonly query: Readonly<Record<string, unknown>>;
  /** Headers by their names in lower case. */
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>;
  /** Address of the client, where it is known. */
  readonly ip: string | undefined;
  /** Whether the body has arrived. */
  readonly complete: boolean;
  /** Whether the connection is closed. */
  readonly destroyed: boolean;
  /** Parameters of the path, by the names that its route gives them. */
  params: Record<string, string | string[]>;
  /** The route, once one is found. */
  route?: { readonly path: string };
  /** The API whose route it is. @default "openai" */
  api?: ApiName | undefined;
  /** The parsed body, once it was read. */
  body?: unknown;
  /** The host's own request, where it is another object than this. */
  readonly web?: object | undefined;
  /** Returns a header. @param name - in any case */
  get(name: string): string | undefined;
  /** Stops reading, and closes the connection where that is possible. */
  destroy(): unknown;
}

/** The answer to a request. It behaves as a writable stream of Node does. */
export interface Reply {
  readonly req: Incoming;
  readonly locals: { readMe?: RequestLocals };
  statusCode: number;
  readonly headersSent: boolean;
  /** Whether `end` was called. */
  readonly writableEnded: boolean;
  /** Whether the whole answer was handed over. */
  readonly writableFinished: boolean;
  /** Bytes that the reader has not taken. */
  readonly writableLength: number;
  readonly destroyed: boolean;
  readonly closed: boolean;
  setHeader(name: string, value: string | number): unknown;
  /** Adds a name to the header `vary`. */
  vary(field: string): unknown;
  /** @returns false if the writer shall wait for `drain` */
  write(chunk: string | Uint8Array): boolean;
  end(chunk?: string | Uint8Array): unknown;
  /** Cuts the answer off. */
  destroy(): unknown;
  /** @param event - `drain`: the reader has caught up; `finish`: it has all; `close`: nothing more is sent */
  on(event: ReplyEvent, listener: () => void): unknown;
  once(event: ReplyEvent, listener: () => void): unknown;
  off(event: ReplyEvent, listener: () => void): unknown;
}

type ReplyEvent = "drain" | "finish" | "close";

/** Passes a request on to the next step, or its error to the answer. */
export type Next = (error?: unknown) => void;

/** A step of a chain: answers the request, or passes it on. A thrown error becomes the answer. */
export type Step = (request: Incoming, response: Reply, next: Next) => void | Promise<void>;

/** The last step of a chain, which answers. */
export type Handler = (request: Incoming, response: Reply) => void | Promise<void>;

/** Returns the request as hooks see it: that of the host. */
export function hostRequest(request: Incoming): object {
  return request.web ?? request;
}

/** Returns the request's state, or `undefined` where `identify` has not run. */
export function knownLocals(response: Reply): RequestLocals | undefined {
  return response.locals.readMe;
}

/** @throws {TypeError} where `identify` has not run */
export function localsOf(response: Reply): RequestLocals {
  const locals = knownLocals(response);
  if (locals === undefined) throw new TypeError("Expected the request to have passed the API's first middleware");
  return locals;
}

/** Gives a request its id and time of arrival, unless earlier middleware has done so. */
export const identify: Step = (request, response, next) => {
  if (knownLocals(response) === undefined) {
    const requestId = printableId(request.get("x-request-id")) ?? randomUUID();
    const locals: RequestLocals = { requestId, arrivalMs: performance.now() };
    response.locals.readMe = locals;
    response.setHeader("x-request-id", requestId);
    if (speaksMessages(request)) response.setHeader("request-id", requestId);
  }
  next();
};

/** Whether the client speaks Anthropic's API, on a path of its own or on one that several APIs have. */
export function speaksMessages({ api, headers }: Pick<Incoming, "api" | "headers">): boolean {
  return api === "messages" || headers["anthropic-version"] !== undefined;
}

/** Returns a client's own id if it is safe in a header and in a log line. */
function printableId(id: string | undefined): string | undefined {
  return id !== undefined && /^[\x21-\x7e]{1,128}$/.test(id) ? id : undefined;
}

/** Sets the header that states how long the answer took so far, right before headers are sent. */
export function stampProcessingTime(response: Reply): void {
  if (response.headersSent) return;
  response.setHeader("openai-processing-ms", String(Math.round(performance.now() - localsOf(response).arrivalMs)));
}

/** Names a request's client by its key, or by its network if it has none. The prefix keeps keys and addresses apart. */
export function clientName(request: Incoming, response: Reply): string {
  const key = knownLocals(response)?.key;
  return key === undefined ? `address:${networkOf(request.ip ?? "")}` : `key:${key}`;
}

/** Returns the size of a request's body in bytes, or what it declares where other middleware has read it. */
export function bodyBytesOf(request: Incoming, response: Reply): number {
  return knownLocals(response)?.bodyBytes ?? Number(request.get("content-length") ?? 0);
}

export function idOf({ params: { id } }: Incoming): string {
  return typeof id === "string" ? id : "";
}

/** Returns an IPv4 address unchanged, and the /64 network of an IPv6 address, since one machine may own all of it. */
export function networkOf(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
  if (mapped !== undefined) return mapped;
  if (!isIPv6(address)) return address;
  const [head = "", tail] = address.split("%")[0]?.split("::") ?? [];
  const [before, after] = [groupsOf(head), groupsOf(tail ?? "")];
  const numZeros = tail === undefined ? 0 : Math.max(0, 8 - before.length - after.length);
  const network = [...before, ...Array.from({ length: numZeros }, () => "0"), ...after].slice(0, 4);
  return `${network.map((group) => Number.parseInt(group, 16).toString(16)).join(":")}::/64`;
}

function groupsOf(part: string): readonly string[] {
  return part === "" ? [] : part.split(":");
}

/** The client closed the connection before its answer was complete. */
export class ClientGone extends Error {
  override readonly name = "ClientGone";
}

/**
 * Returns a signal that aborts with `ClientGone` when the connection ends before the answer does. It follows the
 * answer's `close` event, since the request's fires as soon as the body was read.
 */
export function clientSignal(response: Reply): AbortSignal {
  const controller = new AbortController();
  const onClose = (): void => {
    if (!response.writableFinished) controller.abort(new ClientGone("The client closed the connection"));
  };
  if (response.destroyed || response.closed) onClose();
  else response.once("close", onClose);
  return controller.signal;
}

/** Largest unread body that is still received, so that its connection can serve further requests. */
const MAX_UNREAD_BYTES = 64 << 10;

/** Whether the connection would have to receive a long or endless body that no handler reads. */
export function leavesBody(request: Incoming): boolean {
  if (request.complete) return false;
  const { "content-length": length, "transfer-encoding": encoding } = request.headers;
  return encoding !== undefined || Number(length ?? 0) > MAX_UNREAD_BYTES;
}

interface Pipeline {
  /** Response under way. */
  current: Reply | undefined;
  /** Callbacks that begin the later requests, in order. */
  readonly waiting: (() => void)[];
}

const pipelines = new WeakMap<Socket, Pipeline>();

/**
 * Middleware that begins a request after the earlier responses on its connection are sent. HTTP/1.1 lets clients send
 * requests ahead (pipelining). Node would handle all of them at once, keep their responses in memory, and not report
 * when the client leaves. A connection with more than 16 requests ahead is closed.
 */
export const oneAtATime: RequestHandler = (request, response, next) => {
  const { socket } = request;
  // HTTP/2 limits its own streams.
  if (request.httpVersionMajor > 1) return next();
  // Node still parses requests that had arrived before the connection was closed.
  if (socket.destroyed) return;
  const pipeline = pipelines.get(socket) ?? { current: undefined, waiting: [] };
  pipelines.set(socket, pipeline);
  // Routers that are mounted separately each run this middleware.
  if (pipeline.current === response) return next();
  const begin = (): void => {
    pipeline.current = response;
    response.once("close", () => {
      // In a later turn of the event loop: many cheap answers in one turn would delay other connections.
      if (pipeline.waiting.length > 0) setImmediate(() => !socket.destroyed && pipeline.waiting.shift()?.());
      else pipeline.current = undefined;
    });
    // No route reads the body of a GET.
    if (request.method !== "POST" && leavesBody(request)) response.setHeader("Connection", "close");
    next();
  };
  if (pipeline.current === undefined) begin();
  else if (pipeline.waiting.length < LIMITS.pipelined.value) pipeline.waiting.push(begin);
  else socket.destroy();
};

// Times: delays and signals that wait, and the shares of the event loop that clients get.

/** Source of delays. Tests pass their own. */
export interface Timers {
  /** Calls `callback` once after `delayMs`. @returns a function that cancels the call */
  after(delayMs: number, callback: () => void): () => void;
}

export const systemTimers: Timers = {
  after(delayMs, callback) {
    const timer = setTimeout(callback, delayMs);
    return () => clearTimeout(timer);
  },
};

/** A signal that aborts with the reason of another one, a time later. */
export class DelayedSignal {
  /** Time between both, in ms. */
  delayMs = 0;
  readonly #controller = new AbortController();
  #stop: () => void = () => undefined;

  constructor(signal: AbortSignal, timers: Timers) {
    const abort = (): void => this.#controller.abort(signal.reason);
    const onAbort = (): void => {
      if (this.delayMs > 0) this.#stop = timers.after(this.delayMs, abort);
      else abort();
    };
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort, { once: true });
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Stops a delay under way: the signal aborts no more. */
  stop(): void {
    this.#stop();
  }
}

/** Waits for a promise, but no longer than `ms`. @returns nothing if that was too short */
export async function within<Result>(ms: number, promise: Promise<Result>): Promise<Result | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<undefined>((resolve) => (timer = setTimeout(resolve, ms, undefined)));
  return Promise.race([promise, timeout]).finally(() => clearTimeout(timer));
}

/** Duration that is not counted, in ms. */
const FREE_MS = 5;
/** Estimated time to parse and check a body. */
const MS_PER_BYTE = 12 / 2 ** 20;

/**
 * Shares the event loop's time between clients: a client whose bodies take long to read, or whose answers take long to
 * write, waits in proportion before the next one. Times in ms of any one clock.
 */
export class Paces {
  readonly #share: number;
  /** End of each waiting client's wait, by client. */
  readonly #readyMs = new Map<string, number>();

  /** @param share - the share of the time that one client may take, above 0 and at most 1 */
  constructor(share: number = LIMITS.loopShare.value) {
    this.#share = share;
  }

  /** Returns how long a client's next body has to wait: 0 for most clients. */
  waitMs(client: string, nowMs: number): number {
    return Math.max(0, (this.#readyMs.get(client) ?? 0) - nowMs);
  }

  /**
   * Counts a body's estimated time before it is read, so that bodies that arrive together take turns.
   *
   * @returns a function that corrects the estimate by the measured duration
   */
  begin(client: string, bytes: number, nowMs: number): (durationMs: number, nowMs: number) => void {
    const expectedMs = bytes * MS_PER_BYTE;
    this.#spend(client, expectedMs, nowMs);
    return (durationMs, endMs) => this.#spend(client, durationMs - expectedMs, endMs);
  }

  /** Runs work when the client's turn comes, and counts its time. */
  async run<Result>(client: string, work: () => Result): Promise<Result> {
    for (;;) {
      const waitMs = this.waitMs(client, performance.now());
      if (waitMs === 0) break;
      await new Promise((resolve) => void setTimeout(resolve, waitMs));
    }
    const startMs = performance.now();
    try {
      return work();
    } finally {
      const endMs = performance.now();
      this.#spend(client, endMs - startMs, endMs);
    }
  }

  #spend(client: string, durationMs: number, nowMs: number): void {
    if (durationMs <= FREE_MS) return;
    const startMs = Math.max(nowMs, this.#readyMs.get(client) ?? 0);
    this.#readyMs.set(client, startMs + durationMs * (1 / this.#share - 1));
    for (const [other, readyMs] of this.#readyMs) if (readyMs <= nowMs) this.#readyMs.delete(other);
  }
}
