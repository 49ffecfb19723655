// Errors in the shape of Anthropic's API, and what marks a request as one of its clients.

import type { Incoming, Step } from "../http/types.ts";
import { invalid, type ApiError } from "../http/errors.ts";
import { identify, localsOf } from "../http/request.ts";

const TYPES: Readonly<Record<number, string>> = {
  401: "authentication_error",
  403: "permission_error",
  404: "not_found_error",
  408: "timeout_error",
  413: "request_too_large",
  429: "rate_limit_error",
  500: "api_error",
  503: "overloaded_error",
};

type Contents = Pick<ApiError, "status" | "message" | "param" | "code">;

/** Returns the body of an error. */
export function messagesErrorBody({ status, message, param, code }: Contents, requestId: string): object {
  const type = TYPES[status] ?? (status >= 500 ? "api_error" : "invalid_request_error");
  return {
    type: "error",
    error: { type, message, param: param ?? null, code: code ?? null },
    request_id: requestId,
  };
}

/** Whether the client speaks Anthropic's API. */
function isMessagesClient(request: Incoming): boolean {
  const path = `${request.baseUrl}${request.path}`;
  return request.get("anthropic-version") !== undefined || /\/v1\/messages(\/|$)/.test(path);
}

/** Whether the path is one of Ollama's API, whose errors are a text. */
function isOllamaPath(request: Incoming): boolean {
  return /\/api\/(chat|generate|embed|embeddings|tags|ps|show|version)$/.test(`${request.baseUrl}${request.path}`);
}

/** Versions of the API. Their answers have the same shape here. */
const VERSIONS = ["2023-06-01", "2026-10-21"] as const;

/** Middleware in front of keys and limits, so that their refusals have the shape that the client expects, too. */
export const shapeErrors: Step = (request, response, next) => {
  if (isOllamaPath(request)) {
    void identify(request, response, () => {
      localsOf(response).errorBody = ({ message }) => ({ error: message });
      next();
    });
    return;
  }
  if (!isMessagesClient(request)) return next();
  void identify(request, response, () => {
    const locals = localsOf(response);
    locals.errorBody = (error) => messagesErrorBody(error, locals.requestId);
    response.setHeader("request-id", locals.requestId);
    const version = request.get("anthropic-version");
    const isKnown = version === undefined || VERSIONS.some((known) => known === version);
    next(isKnown ? undefined : invalid("anthropic-version", `expected ${VERSIONS.join(" or ")}`));
  });
};
