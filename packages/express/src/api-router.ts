// The routes of the API.

import express, { type Request, type RequestHandler, type Response, type Router } from "express";
import { ApiError, answerErrors, answerNotFound } from "./http/errors.ts";
import { identify, oneAtATime } from "./http/request.ts";
import type { Serving } from "./api/exchange.ts";
import { loadAdapter, OPERATOR_BODY_BYTES, unloadAdapter } from "./api/expert-routes.ts";
import { detokenize, listModels, showModel, tokenize } from "./api/other-routes.ts";
import { readJson, refuseEarly, refuseLong } from "./api/read-body.ts";
import { chatEndpoint, completionEndpoint, serveGeneration } from "./api/serve-generation.ts";

type Handler = (request: Request, response: Response) => void | Promise<void>;

/** Middleware in front of routes: keys, request ids, rate limits. */
export interface Fronts {
  readonly clients: readonly RequestHandler[];
  /** Middleware of operators' routes; `undefined` where these do not exist. */
  readonly operators: readonly RequestHandler[] | undefined;
}

/** @param document - the OpenAPI document */
export function apiRouter(serving: Serving, document: object, { clients, operators }: Fronts): Router {
  const router = express.Router();
  const { models } = serving;
  // Added to each route, since requests for other paths belong to the rest of the app.
  const front: readonly RequestHandler[] = [oneAtATime, ...clients, identify];
  const readBody = [refuseEarly(serving), readJson(serving)];
  const post = (path: string, handler: Handler): void => {
    router
      .route(path)
      .all(...front)
      .post(...readBody, handler)
      .all(allowOnly("POST"));
  };
  const get = (path: string, handler: Handler): void => {
    router
      .route(path)
      .all(...front)
      .get(handler)
      .all(allowOnly("GET, HEAD"));
  };
  post("/v1/chat/completions", (request, response) => serveGeneration(chatEndpoint, { serving, request, response }));
  post("/v1/completions", (request, response) => serveGeneration(completionEndpoint, { serving, request, response }));
  get("/v1/models", (_, response) => listModels(serving, response));
  get("/v1/models/*id", (request, response) => showModel(serving, request, response));
  post("/tokenize", (request, response) => tokenize(serving, request, response));
  post("/detokenize", (request, response) => detokenize(serving, request, response));
  get("/openapi.json", (_, response) => void response.json(document));
  const { folder } = serving.experts.operators ?? {};
  if (operators && folder) {
    // Without admission, since a full server has to obey its operator, too.
    const guarded = [oneAtATime, ...operators, identify];
    const read = [refuseLong(OPERATOR_BODY_BYTES), readJson({ ...serving, maxBodyBytes: OPERATOR_BODY_BYTES })];
    const operate = (path: string, handler: Handler): void => {
      router
        .route(path)
        .all(...guarded)
        .post(...read, handler)
        .all(allowOnly("POST"));
    };
    operate("/v1/load_lora_adapter", (request, response) => loadAdapter({ models, folder }, request, response));
    operate("/v1/unload_lora_adapter", (request, response) => unloadAdapter(models, request, response));
  }
  router.use("/v1", ...front, answerNotFound);
  router.use(answerErrors);
  return router;
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
