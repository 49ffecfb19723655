// Requests of one connection are worked on one after the other, whatever a client sends ahead.

import type { Socket } from "node:net";
import type { Request, RequestHandler, Response } from "express";
import { leavesBody } from "./errors.ts";
import { LIMITS } from "../limits.ts";

interface Pipeline {
  /** The answer that is being worked on. */
  current: Response | undefined;
  /** Callbacks that begin later requests, in order. */
  readonly waiting: (() => void)[];
}

const pipelines = new WeakMap<Socket, Pipeline>();

/**
 * Middleware that begins a request when the answers before it on its connection are out. HTTP/1.1 lets clients send
 * requests ahead (pipelining), and Node would work on all of them at once, keep their answers in memory, and not tell
 * when their client goes. A connection with more than 16 requests ahead is closed.
 */
export const oneAtATime: RequestHandler = (request: Request, response: Response, next) => {
  const { socket } = request;
  // HTTP/2 counts its own streams.
  if (request.httpVersionMajor > 1) return next();
  // Node still parses requests that had arrived before the connection was closed.
  if (socket.destroyed) return;
  const pipeline = pipelines.get(socket) ?? { current: undefined, waiting: [] };
  pipelines.set(socket, pipeline);
  // Parts that are mounted apart each have this middleware.
  if (pipeline.current === response) return next();
  const begin = (): void => {
    pipeline.current = response;
    response.once("close", () => {
      pipeline.current = undefined;
      const following = pipeline.waiting.shift();
      if (!socket.destroyed) following?.();
    });
    // Nothing reads the body of a GET.
    if (request.method !== "POST" && leavesBody(request)) response.setHeader("Connection", "close");
    next();
  };
  if (pipeline.current === undefined) begin();
  else if (pipeline.waiting.length < LIMITS.pipelined.value) pipeline.waiting.push(begin);
  else socket.destroy();
};
