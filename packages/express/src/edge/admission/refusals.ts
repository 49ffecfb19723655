// Why a request is not let in, as its client is told.

import { ApiError, retryHeaders } from "../../http/errors.ts";

export function overloaded(status: 503 | 429, waitMs: number): ApiError {
  const message = "The server is at its limit; try again later.";
  return new ApiError({
    status,
    type: "server_error",
    code: "server_overloaded",
    message,
    headers: retryHeaders(waitMs),
  });
}

export function tooManyOfKey(limit: number, waitMs: number): ApiError {
  const message = `This key has ${limit} requests under way, which is its limit; try again when one has ended.`;
  const headers = retryHeaders(waitMs);
  return new ApiError({ status: 429, type: "rate_limit_error", code: "rate_limit_exceeded", message, headers });
}

export function tooMuchOfClient(measure: string, waitMs: number): ApiError {
  const message = `Your requests under way have the ${measure} that one client may have; try again when one has ended.`;
  const headers = retryHeaders(waitMs);
  return new ApiError({ status: 429, type: "rate_limit_error", code: "rate_limit_exceeded", message, headers });
}

export function tooLarge(bytes: number, maxBytes: number): ApiError {
  const message = `The request has ${bytes} bytes; this server takes at most ${maxBytes}.`;
  return new ApiError({ status: 413, type: "invalid_request_error", code: "request_too_large", message });
}

export function waitedTooLong(maxQueueMs: number, waitMs: number): ApiError {
  const message = `The request's turn did not come within ${maxQueueMs} ms; try again later.`;
  return new ApiError({
    status: 408,
    type: "timeout_error",
    code: "queue_timeout",
    message,
    headers: retryHeaders(waitMs),
  });
}

export function tookTooLong(maxRequestMs: number): ApiError {
  const message = `The answer was not complete within ${maxRequestMs} ms.`;
  // It would take as long the next time.
  const headers = { "x-should-retry": "false" };
  return new ApiError({ status: 408, type: "timeout_error", code: "request_timeout", message, headers });
}
