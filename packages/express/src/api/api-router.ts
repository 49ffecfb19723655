// The routes of the API: methods, bodies, and what is answered where there is nothing.

import express, { type Request, type RequestHandler, type Response, type Router } from "express";
import { ApiError } from "../http/api-error.ts";
import { chatApi } from "./chat/chat-api.ts";
import { completionApi } from "./completions/completion-api.ts";
import { answerErrors, answerNotFound } from "../http/errors.ts";
import { identify } from "../http/locals.ts";
import { oneAtATime } from "../http/one-at-a-time.ts";
import { listModels, showModel } from "./model-routes.ts";
import { refuseEarly } from "./refuse-early.ts";
import { readJson } from "./read-json.ts";
import { serveGeneration, type Serving } from "./serve-generation.ts";
import { detokenize, tokenize } from "./token-routes.ts";

type Handler = (request: Request, response: Response) => void | Promise<void>;

/**
 * @param document - what describes the API
 * @param before - middleware for every route of the API: keys, request ids, rate limits
 */
export function apiRouter(serving: Serving, document: object, before: readonly RequestHandler[]): Router {
  const router = express.Router();
  const { models } = serving;
  // Not for every request: what the API does not serve is somebody else's.
  const front: readonly RequestHandler[] = [oneAtATime, ...before, identify];
  const doors = [refuseEarly(serving), readJson(serving)];
  const post = (path: string, handler: Handler): void => {
    router
      .route(path)
      .all(...front)
      .post(...doors, handle(handler))
      .all(allowOnly("POST"));
  };
  const get = (path: string, handler: Handler): void => {
    router
      .route(path)
      .all(...front)
      .get(handle(handler))
      .all(allowOnly("GET, HEAD"));
  };
  post("/v1/chat/completions", (request, response) => serveGeneration(chatApi, serving, request, response));
  post("/v1/completions", (request, response) => serveGeneration(completionApi, serving, request, response));
  get("/v1/models", (_, response) => listModels(models, response));
  get("/v1/models/*id", (request, response) => showModel(models, request, response));
  post("/tokenize", (request, response) => tokenize(serving, request, response));
  post("/detokenize", (request, response) => detokenize(serving, request, response));
  get("/openapi.json", (_, response) => void response.json(document));
  router.use("/v1", ...front, answerNotFound);
  router.use(answerErrors);
  return router;
}

function handle(handler: Handler): RequestHandler {
  return async (request, response) => {
    await handler(request, response);
  };
}

function allowOnly(methods: string): RequestHandler {
  return (request, response) => {
    response.setHeader("Allow", methods);
    if (request.method === "OPTIONS") {
      response.status(204).end();
      return;
    }
    const message = `Expected ${methods}, got ${request.method}`;
    throw new ApiError({ status: 405, type: "invalid_request_error", code: "method_not_allowed", message });
  };
}
