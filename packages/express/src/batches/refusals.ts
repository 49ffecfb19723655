// Refusals of requests about files and batches.

import { ApiError, badRequest, invalid, retryHeaders } from "../http/errors.ts";

export function fileNotFound(id: string): ApiError {
  return notFound(`No such File object: ${shown(id)}`, "id", "file_not_found");
}

export function batchNotFound(id: string): ApiError {
  return notFound(`No batch found with id '${shown(id)}'.`, "batch_id", "batch_not_found");
}

/** Creates the refusal of a page that begins after an item that the list does not have. */
export function unknownPlace(): ApiError {
  return invalid("after", "expected the id of an item of the list");
}

export function fileInUse(id: string): ApiError {
  const message = `The file ${id} is the input of a batch that has not ended; cancel the batch first.`;
  return badRequest({ message, code: "file_in_use" });
}

/** Creates the refusal of a file that the store has no room for. @param measure - what it would exceed */
export function storeFull(measure: string): ApiError {
  const message = `The server keeps no more ${measure}; delete files that you do not need.`;
  return new ApiError({ status: 413, type: "invalid_request_error", code: "storage_full", message });
}

export function tooManyBatches(): ApiError {
  const message = "Too many batches have not ended; wait until one has, or cancel one.";
  return new ApiError({
    status: 429,
    type: "requests",
    code: "too_many_batches",
    message,
    headers: retryHeaders(60_000),
  });
}

/** Wait before a refused upload is tried again, in ms. */
export const UPLOAD_RETRY_MS = 1000;

export function tooManyUploads(): ApiError {
  const message = "Too many files are arriving; try again later.";
  return new ApiError({
    status: 503,
    type: "server_error",
    code: "server_overloaded",
    message,
    headers: retryHeaders(UPLOAD_RETRY_MS),
  });
}

export function batchHasEnded(status: string): ApiError {
  return badRequest({ message: `Cannot cancel a batch with status '${status}'.`, code: "invalid_value" });
}

function notFound(message: string, param: string, code: string): ApiError {
  return new ApiError({ status: 404, type: "invalid_request_error", message, param, code });
}

/** Shortens an id, which comes from a client and may have any length. */
function shown(id: string): string {
  return id.slice(0, 200);
}
