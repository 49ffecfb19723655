// Errors as clients see them, without stack traces and paths, and the refusals of admission and models.

import { type EngineInfo, ReadMeError, type ReadMeErrorCode } from "@readme-moe/core";
import type { ErrorRequestHandler, RequestHandler } from "express";
import {
  ClientGone,
  type Incoming,
  knownLocals,
  leavesBody,
  type Reply,
  speaksMessages,
  stampProcessingTime,
} from "./request.ts";

/** Contents of an error answer, in the shape of the OpenAI API. */
export interface ApiErrorDetails {
  /** HTTP status, 400 to 599. */
  readonly status: number;
  /** Kind of error. @default "server_error" for a status from 500 on, else "invalid_request_error" */
  readonly type?: string | undefined;
  readonly message: string;
  /** Error code, such as `context_length_exceeded`. */
  readonly code?: string | undefined;
  /** Name of the parameter that caused the error. */
  readonly param?: string | undefined;
  /** Headers of the answer, such as `retry-after`. */
  readonly headers?: Readonly<Record<string, string>> | undefined;
  readonly cause?: unknown;
}

/** An error that a client may see: its message contains no stack trace and no path. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly status: number;
  readonly type: string;
  readonly code: string | undefined;
  readonly param: string | undefined;
  readonly headers: Readonly<Record<string, string>>;

  constructor({ status, type, message, code, param, headers = {}, cause }: ApiErrorDetails) {
    super(message, { cause });
    this.status = status;
    this.type = type ?? (status >= 500 ? "server_error" : "invalid_request_error");
    this.code = code;
    this.param = param;
    this.headers = headers;
  }

  toJSON(): object {
    const { message, type, param = null, code = null } = this;
    return { error: { message, type, param, code } };
  }
}

/** Creates an error of status 400, for a mistake of the client. */
export function badRequest(details: Omit<ApiErrorDetails, "status" | "type" | "headers">): ApiError {
  return new ApiError({ status: 400, ...details });
}

type MoreDetails = Omit<ApiErrorDetails, "status" | "code" | "message">;

/** Creates a refusal with another status. */
export function refusal(status: number, code: string, message: string, more?: MoreDetails): ApiError {
  return new ApiError({ status, code, message, ...more });
}

/** Lists names in a message, up to 20 of them. They may come from clients, and have any length. */
export function listNames(names: readonly string[]): string {
  const more = names.length > MAX_NAMES ? ` and ${names.length - MAX_NAMES} more` : "";
  const shown = names.slice(0, MAX_NAMES).map((name) => `\`${shownId(name)}\``);
  return `${shown.join(", ")}${more}`;
}

const MAX_NAMES = 20;

/** Shortens an id, which comes from a client and may have any length. */
export const shownId = (id: string): string => id.slice(0, 200);

/** Creates the error of a parameter with a wrong value. */
export function invalid(param: string, problem: string, cause?: unknown): ApiError {
  return badRequest({ message: `Invalid '${param}': ${problem}`, code: "invalid_value", param, cause });
}

/** Creates the error of a parameter, or a combination of parameters, that this server does not support. */
export function unsupported(param: string, message = `'${param}' is not supported`): ApiError {
  return badRequest({ message, code: "unsupported_parameter", param });
}

/** Longest wait that clients of the OpenAI API obey, in seconds. */
const MAX_RETRY_SECONDS = 60;

/** Returns the headers that ask a client to try again after `waitMs`. */
export function retryHeaders(waitMs: number): Readonly<Record<string, string>> {
  const ms = Math.min(MAX_RETRY_SECONDS * 1000, Math.max(1, Math.ceil(waitMs)));
  return { "retry-after": `${Math.ceil(ms / 1000)}`, "retry-after-ms": `${ms}`, "x-should-retry": "true" };
}

/**
 * Gives an error the names of another API's parameters, in `param` and in the message.
 * @param names - names by those that the error may have; longer ones before their beginnings
 */
export function renameParams(error: unknown, names: Readonly<Record<string, string>>): unknown {
  if (!(error instanceof ApiError) || error.param === undefined) return error;
  const { param, message } = error;
  const known = Object.keys(names).find((name) => param === name || new Set([".", "["]).has(after(param, name)));
  if (known === undefined) return error;
  // Places within a renamed parameter differ between the APIs.
  const renamed = names[known] ?? param;
  const { status, type, code, headers } = error;
  const text = message.replaceAll(`'${param}'`, `'${renamed}'`).replaceAll(`'${known}'`, `'${renamed}'`);
  return new ApiError({ status, type, code, headers, message: text, param: renamed, cause: error.cause });
}

/** Returns the character after a beginning of a text, or nothing if the text begins otherwise. */
function after(text: string, beginning: string): string {
  return text.startsWith(beginning) ? text.charAt(beginning.length) : "";
}

type ToDetails = (message: string, param: string) => ApiErrorDetails;

const refused =
  (code: string): ToDetails =>
  (message, param) => ({ status: 400, code, message, param });

const unavailable =
  (code: string, message: string, headers: Readonly<Record<string, string>> = retryHeaders(1000)): ToDetails =>
  () => ({ status: 503, code, message, headers });

const ENGINE_ERRORS: Partial<Record<ReadMeErrorCode, ToDetails>> = {
  ERR_CONTEXT_LENGTH: refused("context_length_exceeded"),
  ERR_CHAT_TEMPLATE: refused("invalid_value"),
  ERR_QUEUE_FULL: unavailable("server_overloaded", "Too many requests are under way; try again later"),
  ERR_FLEET_UNREACHABLE: unavailable(
    "fleet_unreachable",
    "The machines of the model cannot be reached; try again later",
  ),
  ERR_NO_WORKER: (message, param) => unavailable("no_worker", `${message}; try again later`)(message, param),
  ERR_ENGINE_FAILED: unavailable("engine_failed", "The engine has failed; try again later"),
  ERR_GRAMMAR_FAILED: unavailable("grammar_failed", "The grammar that constrains the answer has failed; try again"),
  ERR_DRAINED: unavailable("engine_drained", "The engine ends its work; send the request again"),
  ERR_TAKEN_OVER: () => ({
    status: 409,
    code: "stream_taken_over",
    message: "Another connection goes on with this answer",
  }),
  // A disposed engine does not return, so a client must not retry.
  ERR_DISPOSED: unavailable("shutting_down", "The model is being removed", { "x-should-retry": "false" }),
};

/**
 * Translates a `ReadMeError` of an engine for clients, and returns any other error as it is.
 *
 * @param param - the parameter that holds the prompt
 */
export function engineError(error: unknown, param: string, { path }: Pick<EngineInfo, "path">): unknown {
  if (!(error instanceof ReadMeError)) return error;
  const message = error.message.replaceAll(`${path}: `, "").replaceAll(path, "the model");
  const details = ENGINE_ERRORS[error.code]?.(message, param);
  if (details === undefined) return error;
  const headers = error.retryAfterMs === undefined ? details.headers : retryHeaders(error.retryAfterMs);
  return new ApiError({ ...details, headers, cause: error });
}

/** Translates the `TypeError` or `RangeError` with which an engine reports a mistake of its caller to status 400. */
export function callerError(error: unknown, param: string): unknown {
  if (!(error instanceof TypeError || error instanceof RangeError)) return error;
  return badRequest({ message: error.message, code: "invalid_value", param, cause: error });
}

/**
 * Translates the error of a grammar that takes too much, or that leaves no way to continue, to status 400.
 *
 * @param param - the parameter that constrains the answer
 */
export function grammarError(error: unknown, param: string): unknown {
  if (!(error instanceof TypeError || error instanceof RangeError)) return error;
  // Messages that do not name the grammar are about the option through which it reaches the engine.
  const { message } = error;
  return invalid(param, message.includes("grammar") ? message : "nothing can come next in its grammar", error);
}

/** Turns any error into one for clients. Unexpected errors become a 500 without details. */
export function asApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  const reading = readingError(error);
  if (reading) return reading;
  const message = "The server had an error while it worked on the request";
  return new ApiError({ status: 500, message, cause: error });
}

export const bodyTooLarge = (cause?: unknown): ApiError =>
  refusal(413, "request_too_large", "The body is too large", { cause });

export const bodyTimeout = (): ApiError => refusal(408, "body_timeout", "The body took too long");

/** Translates errors of body-parser, whose `type` is documented, and of paths that cannot be decoded. */
function readingError(cause: unknown): ApiError | undefined {
  if (typeof cause !== "object" || cause === null) return undefined;
  const type = "type" in cause ? cause.type : undefined;
  const status = "status" in cause ? cause.status : undefined;
  if (typeof status !== "number") return undefined;
  const refuse = (as: number, message: string, code: string): ApiError => refusal(as, code, message, { cause });
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

/** Types of errors in Anthropic's API, by status. */
const MESSAGES_TYPES: Readonly<Record<number, string>> = {
  401: "authentication_error",
  403: "permission_error",
  404: "not_found_error",
  408: "timeout_error",
  413: "request_too_large",
  429: "rate_limit_error",
  500: "api_error",
  503: "overloaded_error",
};

export function messagesErrorBody({ status, message, param, code }: ApiError, requestId: string): object {
  const type = MESSAGES_TYPES[status] ?? (status >= 500 ? "api_error" : "invalid_request_error");
  return {
    type: "error",
    error: { type, message, param: param ?? null, code: code ?? null },
    request_id: requestId,
  };
}

/** Returns the body of an error in the shape of the client's API. Ollama's errors are a text. */
function errorBody(error: ApiError, request: Incoming, requestId: string): object {
  if (request.api === "ollama") return { error: error.message };
  return speaksMessages(request) ? messagesErrorBody(error, requestId) : error.toJSON();
}

/** Answers with an error, or closes the connection if the client has left or an answer has begun. */
export function sendError(response: Reply, error: unknown): void {
  const locals = knownLocals(response);
  if (locals) locals.error = error;
  if (error instanceof ClientGone || response.headersSent || response.destroyed) {
    response.destroy();
    return;
  }
  const answer = asApiError(error);
  if (locals) stampProcessingTime(response);
  const body = JSON.stringify(locals ? errorBody(answer, response.req, locals.requestId) : answer);
  if (leavesBody(response.req)) response.setHeader("Connection", "close");
  // `response.json` would compute an ETag for every refusal, which has to be cheap.
  response.statusCode = answer.status;
  for (const [name, value] of Object.entries(answer.headers)) response.setHeader(name, value);
  response.setHeader("Content-Type", "application/json; charset=utf-8");
  response.setHeader("Content-Length", Buffer.byteLength(body));
  response.end(body);
}

/** Creates the error of a path without a route. */
export function notFound({ method, baseUrl, path }: Pick<Incoming, "method" | "baseUrl" | "path">): ApiError {
  return refusal(404, "unknown_url", `There is no ${method} ${baseUrl}${path}`.slice(0, 300));
}

/** Middleware behind all routes that answers 404 in the API's shape. */
export const answerNotFound: RequestHandler = (request, response) => sendError(response, notFound(request));

/** Last middleware, which answers any error in the API's shape. Express recognises it by its four parameters. */
export const answerErrors: ErrorRequestHandler = (error, _request, response, _next) => sendError(response, error);

const rateLimited = (message: string, waitMs: number): ApiError =>
  refusal(429, "rate_limit_exceeded", message, { type: "rate_limit_error", headers: retryHeaders(waitMs) });

export const overloaded = (status: 503 | 429, waitMs: number): ApiError =>
  refusal(status, "server_overloaded", "The server is at its limit; try again later.", {
    type: "server_error",
    headers: retryHeaders(waitMs),
  });

export const tooManyOfKey = (limit: number, waitMs: number): ApiError =>
  rateLimited(`This key has ${limit} requests under way, which is its limit; try again when one has ended.`, waitMs);

export const tooMuchOfClient = (measure: string, waitMs: number): ApiError =>
  rateLimited(
    `Your requests under way have the ${measure} that one client may have; try again when one has ended.`,
    waitMs,
  );

export const tooLarge = (bytes: number, maxBytes: number): ApiError =>
  refusal(413, "request_too_large", `The request has ${bytes} bytes; this server accepts at most ${maxBytes}.`);

export function answerTooLarge(maxBytes: number): ApiError {
  const message = `The answer exceeds this server's limit of ${maxBytes} bytes; ask for fewer tokens, choices or log-probabilities, or for a stream.`;
  return refusal(413, "answer_too_large", message);
}

export const waitedTooLong = (maxQueueMs: number, waitMs: number): ApiError =>
  refusal(408, "queue_timeout", `The request did not begin within ${maxQueueMs} ms; try again later.`, {
    type: "timeout_error",
    headers: retryHeaders(waitMs),
  });

/** Creates the error of a request that would take as long the next time. */
export const tookTooLong = (maxRequestMs: number): ApiError =>
  refusal(408, "request_timeout", `The answer was not complete within ${maxRequestMs} ms.`, {
    type: "timeout_error",
    headers: { "x-should-retry": "false" },
  });

/** @param served - names of the models that the client may use */
export function unknownModel(name: string, served: readonly string[]): ApiError {
  const known = served.length === 0 ? "" : ` Served are ${listNames(served)}.`;
  const message = `The model ${listNames([name])} does not exist or you do not have access to it.${known}`;
  return refusal(404, "model_not_found", message, { param: "model" });
}

export const noModelNamed = (names: readonly string[]): ApiError =>
  refusal(400, "missing_model", `This server has several models (${names.join(", ")}); name one.`, { param: "model" });

/** @param stage - what is done at the moment */
export function modelLoading(name: string, waitMs: number, stage?: string): ApiError {
  const message = `The model \`${name}\` is loading${stage === undefined ? "" : `: ${stage}`}; try again later.`;
  return refusal(503, "model_loading", message, { headers: retryHeaders(waitMs) });
}

/** Creates the error of a change of an engine that does not serve the model any more. */
export const modelReplaced = (name: string): ApiError =>
  refusal(503, "model_loading", `The model \`${name}\` was replaced meanwhile; try again.`, {
    headers: retryHeaders(1),
  });

/** @param why - why it could not be opened, and when the next attempt may begin */
export function modelFailed(name: string, why?: { readonly reason: string; readonly waitMs: number }): ApiError {
  if (!why) return refusal(503, "model_failed", `The model \`${name}\` does not work at the moment.`);
  const message = `The model \`${name}\` could not be opened: ${why.reason}.`;
  return refusal(503, "model_failed", message, { headers: retryHeaders(why.waitMs) });
}

/** Describes for clients why a model could not be opened. Leaves out the file that a message begins with, and paths. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof ReadMeError)) return "an unexpected error";
  const text = error.message.replace(/^(?:[A-Za-z]:)?[^:]*[\\/.][^:]*: /, "");
  return text.replaceAll(/(?<=^|[\s'"`(])(?:[A-Za-z]:)?[\\/][^\s'"`)]*/g, "a file").replace(/\.$/, "");
}

/** Creates the error of a process that does not come back: a client that retried at once would meet it again. */
export const shuttingDown = (): ApiError =>
  refusal(503, "shutting_down", "The server is shutting down.", {
    headers: { "x-should-retry": "false", connection: "close" },
  });

export function badShare(cause: unknown): ApiError {
  return new ApiError({ status: 500, message: "The server could not choose a model for this request.", cause });
}
