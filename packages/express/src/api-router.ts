// The routes of the API.

import express, { type Request, type RequestHandler, type Response, type Router } from "express";
import type { Serving } from "./api/exchange.ts";
import { loadAdapter, OPERATOR_BODY_BYTES, unloadAdapter } from "./api/expert-routes.ts";
import { detokenize, listModels, showModel, tokenize } from "./api/other-routes.ts";
import { createEmbeddings, rerank } from "./api/pooling.ts";
import { readJson, refuseEarly, refuseLong } from "./api/read-body.ts";
import { chatEndpoint, completionEndpoint, serveGeneration } from "./api/serve-generation.ts";
import { answerErrors, answerNotFound, ApiError } from "./http/errors.ts";
import { identify, oneAtATime } from "./http/request.ts";
import { countTokens, messagesEndpoint } from "./messages/endpoint.ts";
import { shapeErrors } from "./messages/errors.ts";
import { ollamaChat, ollamaEmbed, ollamaGenerate, ollamaModels, ollamaShow, ollamaVersion } from "./ollama/routes.ts";
import { responsesEndpoint } from "./responses/endpoint.ts";
import { cancelResponse, deleteResponse, listInputItems, showResponse } from "./responses/routes.ts";
import type { ResponseStore } from "./responses/store.ts";

type Handler = (request: Request, response: Response) => void | Promise<void>;

/** Middleware in front of routes. */
interface Fronts {
  /** Permissions of web pages; comes before keys, which preflight requests do not have. */
  readonly cors: readonly RequestHandler[];
  /** Keys, request ids, rate limits. */
  readonly clients: readonly RequestHandler[];
  /** Middleware of operators' routes; `undefined` where these do not exist. */
  readonly operators: readonly RequestHandler[] | undefined;
}

/** Parts of the API. */
export interface ApiParts {
  readonly serving: Serving;
  readonly store: ResponseStore;
  /** The OpenAPI document. */
  readonly document: object;
  readonly fronts: Fronts;
}

/** Handlers of a path by method. */
type Methods = Readonly<Partial<Record<"get" | "post" | "delete", Handler>>>;

export function apiRouter({ serving, store, document, fronts }: ApiParts): Router {
  const router = express.Router();
  const { clients, operators, cors } = fronts;
  // Added to each route, since requests for other paths belong to the rest of the app.
  const front: readonly RequestHandler[] = [oneAtATime, ...cors, shapeErrors, ...clients, identify];
  const readBody = [refuseEarly(serving), readJson(serving)];
  const on = (path: string, { get, post, delete: remove }: Methods): void => {
    const route = router.route(path).all(...front);
    if (get) route.get(get);
    if (post) route.post(...readBody, post);
    if (remove) route.delete(remove);
    route.all(allowOnly([...(get ? ["GET", "HEAD"] : []), ...(post ? ["POST"] : []), ...(remove ? ["DELETE"] : [])]));
  };
  const responses = responsesEndpoint(store);
  on("/v1/chat/completions", {
    post: (request, response) => serveGeneration(chatEndpoint, { serving, request, response }),
  });
  on("/v1/completions", {
    post: (request, response) => serveGeneration(completionEndpoint, { serving, request, response }),
  });
  on("/v1/responses", { post: (request, response) => serveGeneration(responses, { serving, request, response }) });
  on("/v1/responses/:id", {
    get: (request, response) => showResponse({ store, request, response }),
    delete: (request, response) => deleteResponse({ store, request, response }),
  });
  on("/v1/responses/:id/input_items", { get: (request, response) => listInputItems({ store, request, response }) });
  // Its body is empty, and is not read.
  router
    .route("/v1/responses/:id/cancel")
    .all(...front)
    .post((request, response) => cancelResponse({ store, request, response }))
    .all(allowOnly(["POST"]));
  on("/v1/messages", {
    post: (request, response) => serveGeneration(messagesEndpoint, { serving, request, response }),
  });
  on("/v1/messages/count_tokens", { post: (request, response) => countTokens(serving, request, response) });
  on("/v1/embeddings", { post: (request, response) => createEmbeddings({ serving, request, response }) });
  // Cohere's second API has the path of its version, and vLLM answers without one.
  for (const path of ["/v1/rerank", "/v2/rerank", "/rerank"]) {
    on(path, { post: (request, response) => rerank({ serving, request, response }) });
  }
  on("/v1/models", { get: (request, response) => listModels(serving, request, response) });
  on("/v1/models/*id", { get: (request, response) => showModel(serving, request, response) });
  if (serving.ollama) {
    on("/api/chat", { post: (request, response) => ollamaChat({ serving, request, response }) });
    on("/api/generate", { post: (request, response) => ollamaGenerate({ serving, request, response }) });
    on("/api/embed", { post: (request, response) => ollamaEmbed({ serving, request, response }) });
    on("/api/show", { post: (request, response) => ollamaShow(serving, request, response) });
    for (const path of ["/api/tags", "/api/ps"]) on(path, { get: (_, response) => ollamaModels(serving, response) });
    on("/api/version", { get: (_, response) => ollamaVersion(response) });
  }
  on("/tokenize", { post: (request, response) => tokenize(serving, request, response) });
  on("/detokenize", { post: (request, response) => detokenize(serving, request, response) });
  on("/openapi.json", { get: (_, response) => void response.json(document) });
  if (operators) addOperatorRoutes(router, serving, operators);
  router.use("/v1", ...front, answerNotFound);
  router.use(answerErrors);
  return router;
}

/** Adds the routes that load and unload experts, where there is a folder to load them from. */
function addOperatorRoutes(router: Router, serving: Serving, operators: readonly RequestHandler[]): void {
  const { models } = serving;
  const { folder } = serving.experts.operators ?? {};
  if (!folder) return;
  // Without admission, since a full server has to obey its operator, too.
  const guarded = [oneAtATime, ...operators, identify];
  const read = [refuseLong(OPERATOR_BODY_BYTES), readJson({ ...serving, maxBodyBytes: OPERATOR_BODY_BYTES })];
  const operate = (path: string, handler: Handler): void => {
    router
      .route(path)
      .all(...guarded)
      .post(...read, handler)
      .all(allowOnly(["POST"]));
  };
  operate("/v1/load_lora_adapter", (request, response) => loadAdapter({ models, folder }, request, response));
  operate("/v1/unload_lora_adapter", (request, response) => unloadAdapter(models, request, response));
}

function allowOnly(allowed: readonly string[]): RequestHandler {
  const methods = allowed.join(", ");
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
