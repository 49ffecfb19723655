// The whole middleware, and its two parts.

import { basename } from "node:path";
import { integerOption, ReadMeEmitter, rejectUnknownKeys, type Engine } from "@readme-moe/core";
import type { GrammarsOptions } from "@readme-moe/grammar";
import { Router } from "express";
import { apiRouter } from "./api-router.ts";
import { EngineGrammars } from "./api/exchange.ts";
import { openApiDocument } from "./openapi-document.ts";
import { API_OPTION_NAMES, resolveApiOptions, type ApiOptions } from "./api/options.ts";
import { cors, type CorsOptions } from "./edge/cors.ts";
import { Admission } from "./edge/admission.ts";
import type { AdmissionOptions } from "./edge/admission/options.ts";
import { guard, type GuardOptions } from "./edge/guard.ts";
import { collectMetrics, type MetricsOptions } from "./edge/metrics.ts";
import { operations, type OperationsOptions } from "./edge/operations.ts";
import { Heartbeat } from "./edge/heartbeat.ts";
import { resolveExpertsOptions, type ExpertsOptions } from "./edge/experts/options.ts";
import { reportOutcomes } from "./edge/models/report-outcomes.ts";
import { ServedModels } from "./edge/served-models.ts";
import { ResponseStore, type ResponsesOptions } from "./responses/store.ts";

/** Models and admission. Routers that are mounted separately must get the same objects here. */
export interface ServingOptions {
  /** One engine, served under the name of its folder or file. */
  readonly engine?: Engine | undefined;
  /** Engines by the names that clients use. A promise of an engine counts as loading until it resolves. */
  readonly models?: ServedModels | Readonly<Record<string, Engine | PromiseLike<Engine>>> | undefined;
  /** Limits of requests that are admitted at the same time. */
  readonly admission?: Admission | AdmissionOptions | undefined;
  /** Emitter for events about requests. @default the emitter of `models` */
  readonly events?: ReadMeEmitter | undefined;
}

/** Options of the API and of the guard in front of it. */
export interface ReadMeApiOptions extends ServingOptions, ApiOptions, Omit<GuardOptions, "events"> {
  /** Limits of the grammars that constrain answers. */
  readonly grammars?: GrammarsOptions | undefined;
  /** Low-rank experts: which client may name which, and who may load them while the server runs. */
  readonly experts?: ExpertsOptions | undefined;
  /** Limits of the responses that the server keeps for `previous_response_id`. */
  readonly responses?: ResponsesOptions | undefined;
  /** Web pages that may call the API from a browser. @default none */
  readonly cors?: CorsOptions | undefined;
}

/** Options of health checks and metrics. */
export interface ReadMeOperationsOptions
  extends ServingOptions, Pick<OperationsOptions, "version">, Pick<MetricsOptions, "registry" | "vllmAliases"> {
  /**
   * Longest time until an engine answers, in ms. An engine that takes longer counts as hung, and then `/health`,
   * `/readyz` and `/livez` fail. @default 60,000
   */
  readonly hungMs?: number | undefined;
}

/** Options of `readMe`: those of the API and of operations. */
export interface ReadMeOptions extends ReadMeApiOptions, ReadMeOperationsOptions {}

interface SharedServices {
  readonly models: ServedModels;
  readonly admission: Admission;
  readonly events: ReadMeEmitter;
}

const SERVING_NAMES = ["engine", "models", "admission", "events"] as const satisfies readonly (keyof ServingOptions)[];
const GUARD_NAMES = ["keys", "authorize", "requestsPerMinute", "tokensPerMinute"] as const;
const OPERATIONS_NAMES = ["hungMs", "version", "registry", "vllmAliases"] as const;
const API_NAMES = [
  ...SERVING_NAMES,
  ...GUARD_NAMES,
  ...API_OPTION_NAMES,
  "grammars",
  "experts",
  "responses",
  "cors",
] as const;

/**
 * Creates a router with the APIs of OpenAI and Anthropic over Read-ME engines, health checks and metrics. Their paths
 * begin where the router is mounted.
 *
 * @throws {TypeError | RangeError} on wrong options
 */
export function readMe(options: ReadMeOptions): Router {
  rejectUnknownKeys("readMe", options, [...API_NAMES, ...OPERATIONS_NAMES]);
  const services = servicesOf(options);
  const router = Router();
  router.use(operationsRouter(services, options));
  router.use(apiRouterOf(services, options));
  return router;
}

/**
 * Creates a router with `/v1/chat/completions`, `/v1/completions`, `/v1/responses`, `/v1/messages`, `/v1/embeddings`,
 * `/v1/rerank`, `/v1/models`, `/tokenize`, `/detokenize` and `/openapi.json`; for operators also
 * `/v1/load_lora_adapter` and `/v1/unload_lora_adapter`.
 *
 * @throws {TypeError | RangeError} on wrong options
 */
readMe.api = (options: ReadMeApiOptions): Router => {
  rejectUnknownKeys("readMe.api", options, API_NAMES);
  return apiRouterOf(servicesOf(options), options);
};

/**
 * Creates a router with `/health`, `/livez`, `/readyz`, `/metrics` and `/version`.
 *
 * @throws {TypeError | RangeError} on wrong options
 */
readMe.operations = (options: ReadMeOperationsOptions): Router => {
  rejectUnknownKeys("readMe.operations", options, [...SERVING_NAMES, ...OPERATIONS_NAMES]);
  const router = Router();
  router.use(operationsRouter(servicesOf(options), options));
  return router;
};

function apiRouterOf(services: SharedServices, options: ReadMeApiOptions): Router {
  const { models, admission, events } = services;
  const { keys, authorize, requestsPerMinute, tokensPerMinute } = options;
  const guards = guard({ keys, authorize, requestsPerMinute, tokensPerMinute, events });
  const grammars = new EngineGrammars(models, options.grammars);
  const experts = resolveExpertsOptions(options.experts, keys);
  const serving = { models, admission, grammars, experts, ...resolveApiOptions(options) };
  const outcomes = reportOutcomes(models, events);
  const operators = experts.operators && [outcomes, ...guard({ keys: experts.operators.keys, events })];
  const document = openApiDocument({ hasOperators: operators !== undefined });
  const store = new ResponseStore(options.responses);
  const pages = options.cors === undefined ? [] : [cors(options.cors)];
  return apiRouter({ serving, store, document, fronts: { cors: pages, clients: [outcomes, ...guards], operators } });
}

function operationsRouter(services: SharedServices, options: ReadMeOperationsOptions): ReturnType<typeof operations> {
  const { models, admission } = services;
  const { hungMs = 60_000, registry, vllmAliases, version } = options;
  const heartbeat = new Heartbeat(models, integerOption("hungMs", hungMs, 1), models.events);
  const metrics = collectMetrics({ ...services, heartbeat, registry, vllmAliases });
  return operations({ models, admission, registry: metrics, heartbeat, version });
}

function servicesOf({ engine, models, admission = {}, events }: ServingOptions): SharedServices {
  if ((engine === undefined) === (models === undefined)) {
    throw new TypeError("Expected `engine` or `models`, and not both");
  }
  const served = engine === undefined ? models : { [nameOf(engine)]: engine };
  const isShared = served instanceof ServedModels;
  const bus = events ?? (isShared ? served.events : new ReadMeEmitter());
  return {
    events: bus,
    models: isShared ? served : new ServedModels(served ?? {}, { events: bus }),
    admission: admission instanceof Admission ? admission : new Admission({ events: bus, ...admission }),
  };
}

/** Returns the name of a model's folder, or of its file without the extension. */
function nameOf(engine: Engine): string {
  if (typeof engine !== "object" || engine === null || !("generate" in engine)) {
    throw new TypeError("Expected `engine` to be an engine");
  }
  return basename(engine.info.path).replace(/\.gguf$/i, "");
}
