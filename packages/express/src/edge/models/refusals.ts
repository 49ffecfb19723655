import { ApiError, retryHeaders } from "../../http/errors.ts";

export function unknownModel(name: string): ApiError {
  // It comes from outside and may be of any length.
  const message = `The model \`${name.slice(0, 200)}\` does not exist or you do not have access to it.`;
  return new ApiError({ status: 404, type: "invalid_request_error", code: "model_not_found", param: "model", message });
}

export function noModelNamed(names: readonly string[]): ApiError {
  const message = `This server has several models (${names.join(", ")}); name one.`;
  return new ApiError({ status: 400, type: "invalid_request_error", code: "missing_model", param: "model", message });
}

/** @param waitMs - when to come back */
export function modelLoading(name: string, waitMs: number): ApiError {
  const message = `The model \`${name}\` is being loaded; try again later.`;
  return new ApiError({
    status: 503,
    type: "server_error",
    code: "model_loading",
    message,
    headers: retryHeaders(waitMs),
  });
}

export function modelFailed(name: string): ApiError {
  const message = `The model \`${name}\` does not work at the moment.`;
  return new ApiError({ status: 503, type: "server_error", code: "model_failed", message });
}

export function shuttingDown(): ApiError {
  const message = "The server is shutting down.";
  // Here it is for good; a client that tries again at once would meet the same.
  const headers = { "x-should-retry": "false", connection: "close" };
  return new ApiError({ status: 503, type: "server_error", code: "shutting_down", message, headers });
}

export function badShare(cause: unknown): ApiError {
  const message = "The server could not choose a model for this request.";
  return new ApiError({ status: 500, type: "server_error", message, cause });
}
