// What went wrong, as a client may see it: no stack traces, no paths.

import { ReadMeError, type EngineInfo, type ReadMeErrorCode } from "@readme-moe/core";
import type { ErrorRequestHandler, Request, RequestHandler, Response } from "express";
import { ApiError, badRequest } from "./api-error.ts";
import { retryHeaders } from "./retry-headers.ts";
import { ClientGone } from "./client-signal.ts";
import { stampProcessingTime, type RequestLocals } from "./locals.ts";

/** @param where - the parameter that holds the prompt */
export function engineError(error: unknown, where: string, info: Pick<EngineInfo, "path">): unknown {
  if (!(error instanceof ReadMeError)) return error;
  const message = withoutPath(error.message, info.path);
  const details = ENGINE_ERRORS[error.code]?.(message, where);
  return details === undefined ? error : new ApiError({ ...details, cause: error });
}

type Details = ConstructorParameters<typeof ApiError>[0];

const unavailable =
  (code: string, message: string, headers: Readonly<Record<string, string>> = retryHeaders(1000)) =>
  (): Details => ({ status: 503, type: "server_error", code, message, headers });

const ENGINE_ERRORS: Partial<Record<ReadMeErrorCode, (message: string, where: string) => Details>> = {
  ERR_CONTEXT_LENGTH: (message, param) => ({
    status: 400,
    type: "invalid_request_error",
    code: "context_length_exceeded",
    message,
    param,
  }),
  ERR_CHAT_TEMPLATE: (message, param) => ({
    status: 400,
    type: "invalid_request_error",
    code: "invalid_value",
    message,
    param,
  }),
  ERR_QUEUE_FULL: unavailable("server_overloaded", "Too many requests are under way; try again later"),
  ERR_ENGINE_FAILED: unavailable("engine_failed", "The engine has failed; try again later"),
  ERR_GRAMMAR_FAILED: unavailable("grammar_failed", "The grammar that the answer is bound to has failed; try again"),
  // This engine does not come back, so it is not to be asked again.
  ERR_DISPOSED: unavailable("shutting_down", "The model is being taken away", { "x-should-retry": "false" }),
};

/** A caller's mistake that only the engine can see: it tells by `TypeError` and `RangeError`. */
export function callerError(error: unknown, param: string): unknown {
  if (!(error instanceof TypeError || error instanceof RangeError)) return error;
  return badRequest({ message: error.message, code: "invalid_value", param, cause: error });
}

/** Of an answer that cannot be held to its grammar: it takes too long, or has come to a text that is not in it. */
export function grammarError(error: unknown): unknown {
  if (!(error instanceof TypeError || error instanceof RangeError)) return error;
  const message = "The grammar that the answer is bound to has failed; simplify it";
  return new ApiError({ status: 500, type: "server_error", code: "grammar_failed", message, cause: error });
}

function withoutPath(message: string, path: string): string {
  return message.replaceAll(`${path}: `, "").replaceAll(path, "the model");
}

/** Any error as one for clients. What is not meant for them becomes a 500 that says nothing. */
export function asApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  const { type, status } = (typeof error === "object" && error !== null ? error : {}) as {
    readonly type?: unknown;
    readonly status?: unknown;
  };
  const reading = typeof status === "number" ? readingError(type, status, error) : undefined;
  if (reading) return reading;
  const message = "The server had an error while it worked on the request";
  return new ApiError({ status: 500, type: "server_error", message, cause: error });
}

export function bodyTooLarge(cause?: unknown): ApiError {
  const [type, code] = ["invalid_request_error", "request_too_large"];
  return new ApiError({ status: 413, type, message: "The body is too large", code, cause });
}

/** Errors of the middleware that reads bodies, where `type` is documented, and of paths that cannot be decoded. */
function readingError(type: unknown, status: number, cause: unknown): ApiError | undefined {
  const refuse = (as: number, message: string, code: string): ApiError =>
    new ApiError({ status: as, type: "invalid_request_error", message, code, cause });
  switch (type) {
    case "entity.parse.failed":
      return refuse(400, "The body is not valid JSON", "invalid_json");
    case "entity.verify.failed":
      return refuse(400, "The body is not valid UTF-8", "invalid_json");
    case "entity.too.large":
      return bodyTooLarge(cause);
    case "encoding.unsupported":
    case "charset.unsupported":
      return refuse(415, "The body's encoding is not supported", "unsupported_media_type");
    case "request.aborted":
    case "request.size.invalid":
      return refuse(400, "The body ended early", "invalid_body");
    default:
      return status >= 400 && status < 500
        ? refuse(status, "The request could not be read", "invalid_request")
        : undefined;
  }
}

export function sendError(response: Response, error: unknown): void {
  const locals = (response.locals as { readMe?: RequestLocals }).readMe;
  if (locals) locals.error = error;
  // Nobody is there to read it, or an answer is half written.
  if (error instanceof ClientGone || response.headersSent || response.destroyed) {
    response.destroy();
    return;
  }
  const answer = asApiError(error);
  if (locals) stampProcessingTime(response);
  const body = JSON.stringify(answer);
  if (leavesBody(response.req)) response.setHeader("Connection", "close");
  // Not `json`, which hashes what no cache will ever be asked for: refusing has to be cheap.
  response.status(answer.status).set(answer.headers);
  response.setHeader("Content-Type", "application/json; charset=utf-8");
  response.setHeader("Content-Length", Buffer.byteLength(body));
  response.end(body);
}

/** A body of this size that nobody reads is still received, so that its connection can go on. */
const MAX_UNREAD_BYTES = 64 << 10;

/** Whether a connection that went on would have to receive a long body, or one without end, for nobody. */
export function leavesBody(request: Request): boolean {
  if (request.complete) return false;
  const { "content-length": length, "transfer-encoding": encoding } = request.headers;
  return encoding !== undefined || Number(length ?? 0) > MAX_UNREAD_BYTES;
}

/** Middleware for behind all routes: 404 in the API's shape. */
export const answerNotFound: RequestHandler = (request, response) => {
  const message = `There is no ${request.method} ${request.baseUrl}${request.path}`.slice(0, 300);
  sendError(response, new ApiError({ status: 404, type: "invalid_request_error", code: "unknown_url", message }));
};

/** The last middleware: any error in the API's shape. Express knows it by its four parameters. */
export const answerErrors: ErrorRequestHandler = (error, _request, response, _next) => sendError(response, error);
