// A request before its body is read: its turn on the connection, its id and its client.

import { randomUUID } from "node:crypto";
import { isIPv6, type Socket } from "node:net";
import type { RequestHandler } from "express";
import { LIMITS } from "../limits.ts";
import type { Incoming, Reply, RequestLocals, Step } from "./types.ts";

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

/** Sets the header that states how long the answer took so far. Called right before headers are sent. */
export function stampProcessingTime(response: Reply): void {
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

/** Returns the id in a request's path. */
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
