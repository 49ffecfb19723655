// Settings for the HTTP server that an app with `readMe` listens with.

import type { Server } from "node:http";
import type { Socket } from "node:net";
import type { RequestHandler } from "express";
import { type ApiError, refusal, sendError } from "./errors.ts";

/** Bytes that are parsed at once. Node reads 64 KiB at once, which may contain thousands of tiny requests. */
const SLICE_BYTES = 4096;

/**
 * Makes a server parse incoming data in slices of 4 KiB. `oneAtATime` can then close a connection that sends too many
 * requests ahead before a whole read of 64 KiB is processed.
 */
export function boundConnections(server: Server): void {
  const isTls = "setSecureContext" in server;
  server.on(isTls ? "secureConnection" : "connection", sliceReads);
}

function sliceReads(socket: Socket): void {
  const push = socket.push.bind(socket);
  socket.push = (chunk: Uint8Array | null, encoding?: BufferEncoding): boolean => {
    if (chunk === null || chunk.length <= SLICE_BYTES) return push(chunk, encoding);
    let wantsMore = true;
    for (let start = 0; start < chunk.length && !socket.destroyed; start += SLICE_BYTES) {
      wantsMore = push(chunk.subarray(start, start + SLICE_BYTES), encoding);
    }
    return wantsMore && !socket.destroyed;
  };
  // Without a data listener, Node's parser reads from the system directly and bypasses `push`.
  socket.on("data", () => undefined);
}

const LOCAL_HOST = /^(localhost|[a-z0-9-]+\.localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?$/i;

/** Returns the error of a request whose `Host` is neither a local name nor a loopback address. */
export function foreignHost(host: string): ApiError | undefined {
  if (LOCAL_HOST.test(host)) return undefined;
  const message = "This server answers requests to localhost only; use that name, or configure a key.";
  return refusal(403, "forbidden_host", message);
}

/**
 * Middleware that refuses requests whose `Host` is not a local name or loopback address: 403 `forbidden_host`. Remote
 * pages can make their own name resolve to 127.0.0.1 (DNS rebinding), and browsers then send that name. Intended for
 * servers that listen on a loopback address and ask for no key.
 */
export const localHostsOnly: RequestHandler = (request, response, next) => {
  const error = foreignHost(request.headers.host ?? "");
  if (error) sendError(response, error);
  else next();
};

/** Whether a server that listens on `address` is reachable from this machine only. */
export function isLoopback(address: string): boolean {
  return /^(localhost|127(\.\d{1,3}){3}|::1)$/i.test(address);
}
