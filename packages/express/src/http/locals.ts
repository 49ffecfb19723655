// What is known of a request before its body is read.

import { randomUUID } from "node:crypto";
import type { Request, RequestHandler, Response } from "express";

export interface RequestLocals {
  /** Name of the client's API key, where keys are asked for. */
  key?: string | undefined;
  readonly requestId: string;
  /** By the monotonic clock, `performance.now()`. */
  readonly arrivalMs: number;
  /** Counts tokens against what the client may use; called when they are known. */
  spendTokens?: (tokens: number) => void;
  /** https://www.w3.org/TR/trace-context header of the client, where it is valid. */
  traceparent?: string;
  /** Gives back the room that was kept for the body while it arrived. */
  endArrival?: () => void;
  /** Bytes of the body once it was read. */
  bodyBytes?: number;
  /** When the body was whole, by the monotonic clock. */
  wholeMs?: number;
  /** What the request ended with, where that was an error: for middleware that logs. */
  error?: unknown;
}

export function localsOf(response: Response): RequestLocals {
  const { readMe } = response.locals as { readMe?: RequestLocals };
  if (readMe === undefined) throw new TypeError("Expected the request to have passed the API's first middleware");
  return readMe;
}

/** Gives a request its id and time of arrival, unless something in front of the API has done so. */
export const identify: RequestHandler = (request: Request, response: Response, next) => {
  const locals = response.locals as { readMe?: RequestLocals };
  if (locals.readMe === undefined) {
    const requestId = printableId(request.get("x-request-id")) ?? randomUUID();
    locals.readMe = { requestId, arrivalMs: performance.now() };
    response.setHeader("x-request-id", requestId);
  }
  next();
};

/** A client's own id is kept when it can stand in a header and a log line. */
function printableId(id: string | undefined): string | undefined {
  return id !== undefined && /^[\x21-\x7e]{1,128}$/.test(id) ? id : undefined;
}

/** Says how long the answer took until now; called right before headers are sent. */
export function stampProcessingTime(response: Response): void {
  response.setHeader("openai-processing-ms", String(Math.round(performance.now() - localsOf(response).arrivalMs)));
}
