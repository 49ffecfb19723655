// Refusals of requests that name kept responses.

import { ApiError, badRequest, invalid } from "../http/errors.ts";
import { CANCELLED } from "./format.ts";

export function responseNotFound(id: string): ApiError {
  return notFound(`Response with id '${shown(id)}' not found.`, "response_not_found");
}

export function itemNotFound(id: string): ApiError {
  return notFound(`Item with id '${shown(id)}' not found.`, "item_not_found", "input");
}

export function previousNotFound(id: string): ApiError {
  const message = `Previous response with id '${shown(id)}' not found.`;
  return badRequest({ message, code: "previous_response_not_found", param: "previous_response_id" });
}

export function conversationTooLong(maxItems: number): ApiError {
  return invalid(
    "input",
    `expected at most ${maxItems} items and parts, with those of the responses that it continues`,
  );
}

export function conversationTooLarge(maxBytes: number): ApiError {
  const message = `The request has more than ${maxBytes} bytes with the items of the responses that it continues.`;
  return new ApiError({
    status: 413,
    type: "invalid_request_error",
    code: "request_too_large",
    message,
    param: "input",
  });
}

export function notRunning(id: string): ApiError {
  const message = `Response with id '${shown(id)}' has ended, and cannot be cancelled.`;
  return badRequest({ message, code: "invalid_value", param: "response_id" });
}

/** Creates the reason that ends a response whose client cancels it. */
export function cancelled(): ApiError {
  const message = "The response was cancelled.";
  return new ApiError({ status: 409, type: "invalid_request_error", code: CANCELLED, message });
}

function notFound(message: string, code: string, param?: string): ApiError {
  return new ApiError({ status: 404, type: "invalid_request_error", message, code, param });
}

/** Shortens an id, which comes from a client and may have any length. */
function shown(id: string): string {
  return id.slice(0, 200);
}
