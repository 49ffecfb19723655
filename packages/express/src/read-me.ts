// The middleware for Express, whole and in its two parts.

import { Router } from "express";
import { fetchHandler, type FetchHandler, type FetchOptions } from "./fetch-handler.ts";
import { oneAtATime } from "./http/request.ts";
import { routeMatcher, type RouteTable } from "./http/routes.ts";
import { makeServices, type ReadMeApiOptions, type ReadMeOperationsOptions, type ReadMeOptions } from "./services.ts";

/**
 * Creates a router with the APIs of OpenAI and Anthropic over Read-ME engines, health checks and metrics. Their paths
 * begin where the router is mounted.
 *
 * @throws {TypeError | RangeError} on wrong options
 */
export function readMe(options: ReadMeOptions): Router {
  return routerOf(makeServices("readMe", options).table);
}

/**
 * Creates a router with `/v1/chat/completions`, `/v1/completions`, `/v1/fim/completions`, `/infill`, `/v1/responses`,
 * `/v1/messages`, `/v1/embeddings`, `/embed`, `/v1/rerank`, `/v1/score`, `/classify`, `/predict`, `/v1/models`,
 * `/tokenize`, `/detokenize` and `/openapi.json`; for operators also `/v1/load_lora_adapter` and
 * `/v1/unload_lora_adapter`.
 *
 * @throws {TypeError | RangeError} on wrong options
 */
readMe.api = (options: ReadMeApiOptions): Router =>
  routerOf(makeServices("readMe.api", options, { only: "api" }).table);

/**
 * Creates a router with `/health`, `/livez`, `/readyz`, `/metrics` and `/version`.
 *
 * @throws {TypeError | RangeError} on wrong options
 */
readMe.operations = (options: ReadMeOperationsOptions): Router =>
  routerOf(makeServices("readMe.operations", options, { only: "operations" }).table);

/**
 * Creates a handler of web requests with the same routes, for hosts other than Express.
 *
 * @throws {TypeError | RangeError} on wrong options
 */
readMe.fetch = (options: FetchOptions): FetchHandler => fetchHandler(options);

/** Mounts a table of routes. Requests for other paths belong to the rest of the app. */
function routerOf(table: RouteTable): Router {
  const find = routeMatcher(table);
  const router = Router();
  router.use((request, response, next) => {
    const way = find(request);
    if (way) void oneAtATime(request, response, () => way(request, response));
    else next();
  });
  return router;
}
