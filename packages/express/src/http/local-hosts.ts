// Keeps a server without keys from answering anybody but this machine's own programs and pages.

import type { RequestHandler } from "express";
import { ApiError } from "./api-error.ts";
import { sendError } from "./errors.ts";

const LOCAL_HOST = /^(localhost|[a-z0-9-]+\.localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?$/i;

/**
 * Middleware that refuses requests whose `Host` is not this machine's own name or loopback address: 403 `forbidden_host`. A page
 * elsewhere can have its own name resolve to 127.0.0.1 (DNS rebinding), and its browser then sends that name.
 * For servers that listen on a loopback address and ask for no key.
 */
export const localHostsOnly: RequestHandler = (request, response, next) => {
  const { host = "" } = request.headers;
  if (LOCAL_HOST.test(host)) return next();
  const message = "This server answers requests to localhost only; ask it by that name, or have it ask for a key.";
  sendError(response, new ApiError({ status: 403, type: "invalid_request_error", code: "forbidden_host", message }));
};

/** Whether a server that listens on `address` can be reached from this machine only. */
export function isLoopback(address: string): boolean {
  return /^(localhost|127(\.\d{1,3}){3}|::1)$/i.test(address);
}
