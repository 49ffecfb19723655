// The routes of the API, and the way of a generation from its body to the end of its answer.

import express, { type Request, type RequestHandler, type Response, type Router } from "express";
import { ApiError, answerErrors, answerNotFound, invalid } from "../http/errors.ts";
import { clientSignal, identify, localsOf, oneAtATime } from "../http/request.ts";
import { answerStream, answerWhole } from "./answer.ts";
import { chatApi } from "./chat.ts";
import { checkBody } from "./check-body.ts";
import { completionApi } from "./completions.ts";
import { Exchange, type Serving } from "./exchange.ts";
import { expertName } from "./expert-choice.ts";
import { loadAdapter, OPERATOR_BODY_BYTES, unloadAdapter } from "./expert-routes.ts";
import { consultPolicy, type GenerationApi } from "./generation.ts";
import { detokenize, listModels, showModel, tokenize } from "./other-routes.ts";
import { readJson, refuseEarly, refuseLong } from "./read-body.ts";
import type { ChatBody, CompletionBody } from "./request-schemas.ts";

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
  post("/v1/chat/completions", (request, response) => serveGeneration(chatApi, serving, request, response));
  post("/v1/completions", (request, response) => serveGeneration(completionApi, serving, request, response));
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

/** Serves a generation: checks the body, leases an engine, enters admission, generates and answers. */
async function serveGeneration<Body extends ChatBody | CompletionBody, Choice extends object>(
  api: GenerationApi<Body, Choice>,
  serving: Serving,
  request: Request,
  response: Response,
): Promise<void> {
  const { endpoint, schema } = api;
  const { requestId, key } = localsOf(response);
  const signal = clientSignal(response);
  const sent = checkBody(schema, request.body);
  checkPriority(sent, serving.maxPriority);
  const changed = await serving.onRequest?.(sent, { endpoint, request, requestId, key, signal });
  const body = changed === undefined ? sent : checkBody(schema, changed);
  await Exchange.run({ serving, request, response, body, signal }, async (exchange) => {
    const settings = api.settings(body, exchange);
    const { numPrompts, params, priority } = settings;
    const expert = expertName(settings.expert, exchange.engine.info);
    exchange.enter({ maxCompletionTokens: params.maxTokens, choices: numPrompts * (params.n ?? 1), priority, expert });
    const { shape, ...prepared } = await api.prepare(exchange, settings);
    exchange.signal.throwIfAborted();
    const input = await consultPolicy(exchange, settings, prepared);
    exchange.signal.throwIfAborted();
    await (body.stream ? answerStream : answerWhole)({ exchange, settings, input, shape });
  });
}

/** Refuses a priority above the limit for clients. `onRequest` may set a higher one. */
function checkPriority({ read_me: fields }: ChatBody | CompletionBody, maxPriority: number): void {
  const priority = fields?.priority ?? 0;
  if (priority > maxPriority) {
    throw invalid("read_me.priority", `expected at most ${maxPriority}, the limit of this server, got ${priority}`);
  }
}
