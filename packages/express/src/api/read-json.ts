// Reads bodies: JSON in UTF-8, up to a size and within a time.

import { isUtf8 } from "node:buffer";
import express, { type RequestHandler } from "express";
import { ApiError, badRequest } from "../http/api-error.ts";
import { clientName } from "../http/client-name.ts";
import { localsOf, type RequestLocals } from "../http/locals.ts";
import { Paces } from "../http/paces.ts";
import { asApiError, sendError } from "../http/errors.ts";
import { tooComplex } from "./schemas/scan-json.ts";
import type { Timers } from "../http/timers.ts";

export interface BodyOptions {
  readonly maxBodyBytes: number;
  /** A body that is not whole after this long is given up. */
  readonly bodyTimeoutMs: number;
  readonly timers: Timers;
}

class TooComplex extends Error {
  override readonly name = "TooComplex";
}

export function readJson({ maxBodyBytes, bodyTimeoutMs, timers }: BodyOptions): RequestHandler {
  const paces = new Paces();
  const parse = express.json({
    limit: maxBodyBytes,
    type: () => true,
    verify: (_request, response, bytes, encoding) => {
      const locals = (response as unknown as { locals: { readMe: RequestLocals } }).locals.readMe;
      locals.bodyBytes = bytes.length;
      locals.wholeMs = performance.now();
      if (encoding === "utf-8" && !isUtf8(bytes)) throw new TypeError("Expected UTF-8");
      const problem = tooComplex(bytes);
      if (problem !== undefined) throw new TooComplex(problem);
    },
  });
  return (request, response, next) => {
    // Something in front of this has read it.
    if (request.body !== undefined) return next();
    if (request.is("application/json") === false) {
      const message = "Expected the content type application/json";
      const error = { status: 415, type: "invalid_request_error", code: "unsupported_media_type", message };
      return next(new ApiError(error));
    }
    let isOver = false;
    const stop = timers.after(bodyTimeoutMs, () => {
      isOver = true;
      const message = "The body took too long";
      response.setHeader("Connection", "close");
      response.once("finish", () => request.destroy());
      sendError(response, new ApiError({ status: 408, type: "invalid_request_error", code: "body_timeout", message }));
    });
    const client = clientName(request, response);
    let tellTime: ReturnType<Paces["begin"]> | undefined;
    const read = (): void => {
      if (isOver || request.destroyed) return stop();
      const nowMs = performance.now();
      const waitMs = paces.waitMs(client, nowMs);
      if (waitMs > 0) {
        setTimeout(read, waitMs);
        return;
      }
      tellTime = paces.begin(client, Number(request.headers["content-length"] ?? 0), nowMs);
      parse(request, response, onRead);
    };
    const onRead = (error?: unknown): void => {
      stop();
      if (isOver) return;
      localsOf(response).bodyBytes ??= 0;
      // What is left of a refused body is not waited for.
      if (error !== undefined && !request.complete) response.setHeader("Connection", "close");
      next(error === undefined ? undefined : refusalOf(error));
      // Checking the body follows at once, so that it is counted, and nothing of other requests is.
      const nowMs = performance.now();
      tellTime?.(nowMs - (localsOf(response).wholeMs ?? nowMs), nowMs);
    };
    read();
  };
}

function refusalOf(error: unknown): ApiError {
  if (!(error instanceof TooComplex)) return asApiError(error);
  return badRequest({ message: `Invalid body: ${error.message}`, code: "invalid_value" });
}
