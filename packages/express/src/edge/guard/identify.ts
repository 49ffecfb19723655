// The first of the guard: who asks, in which trace, since when; and, in the end, what was answered.

import type { ReadMeEmitter } from "@readme-moe/core";
import type { Request, RequestHandler, Response } from "express";
import { identify as identifyRequest, localsOf } from "../../http/request.ts";
import { guardedLocals } from "./locals.ts";
import { validTraceparent } from "./traceparent.ts";

/** Of answers that nobody was there to get; it never leaves the server. */
const CLIENT_CLOSED = 499;

export function identify(events: ReadMeEmitter): RequestHandler {
  return (request, response, next) => {
    void identifyRequest(request, response, (error?: unknown) => {
      // A guard further in front has done all this.
      if ("spendTokens" in localsOf(response)) {
        next(error);
        return;
      }
      const traceparent = validTraceparent(request.get("traceparent"));
      if (traceparent !== undefined) response.setHeader("traceparent", traceparent);
      Object.assign(localsOf(response), { key: undefined, traceparent, spendTokens: () => undefined });
      response.once("close", () => tellAnswered(events, request, response));
      next(error);
    });
  };
}

function tellAnswered(events: ReadMeEmitter, request: Request, response: Response): void {
  const { requestId, traceparent, key, arrivalMs } = guardedLocals(response);
  const status = response.writableFinished ? response.statusCode : CLIENT_CLOSED;
  const { method } = request;
  const handler = handlerOf(request);
  const durationMs = performance.now() - arrivalMs;
  events.emit("request:answered", { requestId, traceparent, key, method, handler, status, durationMs });
}

/** The pattern, not the path: what clients make up must not become a label. */
function handlerOf(request: Request): string {
  const route = request.route as { readonly path?: unknown } | undefined;
  return typeof route?.path === "string" ? `${request.baseUrl}${route.path}` : "none";
}
