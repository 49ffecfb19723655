// Answers to requests that admission or the models refuse.

import { ApiError, retryHeaders, type ApiErrorDetails } from "../http/errors.ts";

export function overloaded(status: 503 | 429, waitMs: number): ApiError {
  const message = "The server is at its limit; try again later.";
  return refusal("server_error", "server_overloaded", { status, message, headers: retryHeaders(waitMs) });
}

export function tooManyOfKey(limit: number, waitMs: number): ApiError {
  return rateLimited(
    `This key has ${limit} requests under way, which is its limit; try again when one has ended.`,
    waitMs,
  );
}

export function tooMuchOfClient(measure: string, waitMs: number): ApiError {
  const message = `Your requests under way have the ${measure} that one client may have; try again when one has ended.`;
  return rateLimited(message, waitMs);
}

export function tooLarge(bytes: number, maxBytes: number): ApiError {
  const message = `The request has ${bytes} bytes; this server accepts at most ${maxBytes}.`;
  return refusal("invalid_request_error", "request_too_large", { status: 413, message });
}

export function answerTooLarge(maxBytes: number): ApiError {
  const message = `The answer exceeds this server's limit of ${maxBytes} bytes; ask for fewer tokens, choices or log-probabilities, or for a stream.`;
  return refusal("invalid_request_error", "answer_too_large", { status: 413, message });
}

export function waitedTooLong(maxQueueMs: number, waitMs: number): ApiError {
  const message = `The request did not start within ${maxQueueMs} ms; try again later.`;
  return refusal("timeout_error", "queue_timeout", { status: 408, message, headers: retryHeaders(waitMs) });
}

export function tookTooLong(maxRequestMs: number): ApiError {
  const message = `The answer was not complete within ${maxRequestMs} ms.`;
  // It would take as long the next time.
  const headers = { "x-should-retry": "false" };
  return refusal("timeout_error", "request_timeout", { status: 408, message, headers });
}

/** Names of models that a message lists. */
const MAX_NAMES = 20;

/** @param served - names of the models that the client may use */
export function unknownModel(name: string, served: readonly string[]): ApiError {
  const listed = served.slice(0, MAX_NAMES).map((one) => `\`${one.slice(0, 200)}\``);
  const more = served.length > MAX_NAMES ? ` and ${served.length - MAX_NAMES} more` : "";
  const known = served.length === 0 ? "" : ` Served are ${listed.join(", ")}${more}.`;
  // The name comes from a client and may have any length.
  const message = `The model \`${name.slice(0, 200)}\` does not exist or you do not have access to it.${known}`;
  return refusal("invalid_request_error", "model_not_found", { status: 404, param: "model", message });
}

export function noModelNamed(names: readonly string[]): ApiError {
  const message = `This server has several models (${names.join(", ")}); name one.`;
  return refusal("invalid_request_error", "missing_model", { status: 400, param: "model", message });
}

export function modelLoading(name: string, waitMs: number): ApiError {
  const message = `The model \`${name}\` is loading; try again later.`;
  return refusal("server_error", "model_loading", { status: 503, message, headers: retryHeaders(waitMs) });
}

/** Creates the error of a change of an engine that does not serve the model any more. */
export function modelReplaced(name: string): ApiError {
  const message = `The model \`${name}\` was replaced meanwhile; try again.`;
  return refusal("server_error", "model_loading", { status: 503, message, headers: retryHeaders(1) });
}

export function modelFailed(name: string): ApiError {
  return refusal("server_error", "model_failed", {
    status: 503,
    message: `The model \`${name}\` does not work at the moment.`,
  });
}

export function shuttingDown(): ApiError {
  // This process does not come back; a client that retried at once would meet it again.
  const headers = { "x-should-retry": "false", connection: "close" };
  return refusal("server_error", "shutting_down", { status: 503, message: "The server is shutting down.", headers });
}

export function badShare(cause: unknown): ApiError {
  const message = "The server could not choose a model for this request.";
  return new ApiError({ status: 500, type: "server_error", message, cause });
}

function rateLimited(message: string, waitMs: number): ApiError {
  return refusal("rate_limit_error", "rate_limit_exceeded", { status: 429, message, headers: retryHeaders(waitMs) });
}

function refusal(type: string, code: string, details: Omit<ApiErrorDetails, "type" | "code">): ApiError {
  return new ApiError({ type, code, ...details });
}
