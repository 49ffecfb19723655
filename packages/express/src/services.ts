// Options of the API and of operations, and the tables of routes that follow from them.

import { basename } from "node:path";
import { type Engine, integerOption, MAX_TIMER_MS, ReadMeEmitter, rejectUnknownKeys } from "@readme-moe/core";
import type { GrammarsOptions } from "@readme-moe/grammar";
import type { Request as ExpressRequest } from "express";
import { checkBody, readJson, refuseEarly, refuseLong } from "./api/body.ts";
import { OPERATOR_BODY_BYTES } from "./api/experts.ts";
import { API_OPTION_NAMES, type ApiOptions, resolveApiOptions, resolveReaderOptions } from "./api/options.ts";
import { EngineGrammars, type Serving } from "./api/request-scope.ts";
import { Batches } from "./batches/batches.ts";
import type { BatchesOptions } from "./batches/options.ts";
import type { LineHandlers } from "./batches/run-batch.ts";
import { BATCH_ENDPOINTS } from "./batches/schemas.ts";
import { Admission } from "./edge/admission.ts";
import type { AdmissionOptions } from "./edge/admission/limits.ts";
import { type ExpertsOptions, resolveExpertsOptions } from "./edge/experts.ts";
import { checkVersion, cors, type CorsOptions, guard, type GuardOptions } from "./edge/guard.ts";
import { collectMetrics, type MetricsOptions } from "./edge/metrics.ts";
import { Heartbeat, operations, type OperationsOptions } from "./edge/operations.ts";
import type { EnginesByName } from "./edge/models/options.ts";
import { reportOutcomes, ServedModels } from "./edge/served-models.ts";
import type { Handler, Step } from "./http/request.ts";
import { asStep, joinTables, type Route, routesByPath, type RouteTable, schemaOf } from "./http/routes.ts";
import { Paces } from "./http/timers.ts";
import { openApiDocument } from "./openapi-document.ts";
import { type ResponsesOptions, ResponseStore } from "./responses/store.ts";
import { API_ROUTES, type ApiRoute, OPERATIONS_ROUTES, type RoutePart, type RouteServices } from "./routes.ts";

/** Models and admission. Routers that are mounted separately must get the same objects here. */
export interface ServingOptions {
  /** One engine, served under the name that it was opened by: a short name, or that of its folder or file. */
  readonly engine?: Engine | undefined;
  /**
   * Engines by the names that clients use, or how to open them. A promise counts as loading until it resolves. A model
   * with `open` and `bytes` is opened when a request asks for it; `new ServedModels` has options for these.
   */
  readonly models?: ServedModels | EnginesByName | undefined;
  /** Limits of requests that are admitted at the same time. */
  readonly admission?: Admission | AdmissionOptions | undefined;
  /** Emitter for events about requests. @default the emitter of `models` */
  readonly events?: ReadMeEmitter | undefined;
}

/** Options of the API and of the guard in front of it. Hooks get requests of the type `HostRequest`. */
export interface ReadMeApiOptions<HostRequest = ExpressRequest>
  extends ServingOptions, ApiOptions<HostRequest>, Omit<GuardOptions<HostRequest>, "events"> {
  /** Limits of the grammars that constrain answers. */
  readonly grammars?: GrammarsOptions | undefined;
  /** Loras: which client may name which, and who may load them while the server runs. */
  readonly experts?: ExpertsOptions | undefined;
  /** Limits of the responses that the server keeps for `previous_response_id`. */
  readonly responses?: ResponsesOptions | undefined;
  /** Folder and limits of `/v1/files` and `/v1/batches`. @default these routes do not exist */
  readonly batches?: BatchesOptions | undefined;
  /** Web pages that may call the API from a browser. @default none */
  readonly cors?: CorsOptions | undefined;
}

/** Options of health checks and metrics. */
export interface ReadMeOperationsOptions
  extends
    ServingOptions,
    Pick<ApiOptions, "slowReaderMs" | "timers">,
    Pick<OperationsOptions, "version">,
    Pick<MetricsOptions, "registry" | "vllmAliases"> {
  /**
   * Longest time until an engine answers, in ms. An engine that takes longer counts as hung, and then `/health`,
   * `/readyz` and `/livez` fail. @default 60,000
   */
  readonly hungMs?: number | undefined;
}

/** Options of `readMe`: those of the API and of operations. */
export interface ReadMeOptions<HostRequest = ExpressRequest>
  extends ReadMeApiOptions<HostRequest>, ReadMeOperationsOptions {}

interface SharedServices {
  readonly models: ServedModels;
  readonly admission: Admission;
  readonly events: ReadMeEmitter;
}

const SERVING_NAMES = ["engine", "models", "admission", "events"] as const satisfies readonly (keyof ServingOptions)[];
const GUARD_NAMES = ["keys", "authorize", "requestsPerMinute", "tokensPerMinute"] as const;
const OPERATIONS_NAMES = ["slowReaderMs", "timers", "hungMs", "version", "registry", "vllmAliases"] as const;
const API_NAMES = [
  ...SERVING_NAMES,
  ...GUARD_NAMES,
  ...API_OPTION_NAMES,
  "grammars",
  "experts",
  "responses",
  "batches",
  "cors",
] as const;

interface Services extends SharedServices {
  readonly table: RouteTable;
}

/**
 * Makes all routes.
 *
 * @param name - name of the caller in messages
 * @param isWeb - whether hooks get requests of the web. @default false: they get Express's
 * @throws {TypeError | RangeError} on wrong options
 */
export function allServices(name: string, options: ReadMeOptions<never>, isWeb = false): Services {
  rejectUnknownKeys(name, options, [...API_NAMES, ...OPERATIONS_NAMES]);
  const services = servicesOf(options);
  const [ofOperations, ofApi] = [operationsTable(services, options), apiTable(services, options, isWeb)];
  return { ...services, table: joinTables(ofOperations, ofApi) };
}

/** Makes the routes of the API. @throws {TypeError | RangeError} on wrong options */
export function apiServices(name: string, options: ReadMeApiOptions<never>): Services {
  rejectUnknownKeys(name, options, API_NAMES);
  const services = servicesOf(options);
  return { ...services, table: apiTable(services, options, false) };
}

/** Makes the routes of health and metrics. @throws {TypeError | RangeError} on wrong options */
export function operationsServices(name: string, options: ReadMeOperationsOptions): Services {
  rejectUnknownKeys(name, options, [...SERVING_NAMES, ...OPERATIONS_NAMES]);
  const services = servicesOf(options);
  return { ...services, table: operationsTable(services, options) };
}

function apiTable(services: SharedServices, options: ReadMeApiOptions<never>, isWeb: boolean): RouteTable {
  const { models, admission, events } = services;
  const { keys, authorize, requestsPerMinute, tokensPerMinute } = options;
  const guards = guard({ keys, authorize, requestsPerMinute, tokensPerMinute, events });
  const grammars = new EngineGrammars(models, options.grammars);
  const experts = resolveExpertsOptions(options.experts, keys);
  const serving = { models, admission, grammars, experts, paces: new Paces(), ...resolveApiOptions(options) };
  const outcomes = reportOutcomes(models, events);
  const operators = experts.operators && [outcomes, ...guard({ keys: experts.operators.keys, events })];
  const store = new ResponseStore(options.responses);
  const batches = options.batches && batchesOf(options.batches, { services, serving, store, options, isWeb });
  const has = { hasOperators: operators !== undefined, hasBatches: batches !== undefined, hasOllama: serving.ollama };
  const document = Buffer.from(JSON.stringify(openApiDocument(has)));
  const pages = options.cors === undefined ? [] : [cors(options.cors)];
  // Permissions of web pages come before keys, which preflight requests do not have.
  const front = [...pages, outcomes, ...guards, checkVersion];
  const routes = apiRoutes({ serving, store, batches, document }, { front, operators });
  return { routes, rest: { prefix: "/v1", front } };
}

/** Makes the routes that this server has. @param operators - steps before those of operators, where there are any */
function apiRoutes(
  services: RouteServices,
  { front, operators }: { readonly front: readonly Step[]; readonly operators: readonly Step[] | undefined },
): readonly Route[] {
  const { serving } = services;
  const readBody = [refuseEarly(serving), readJson(serving)];
  // Without admission, since a full server has to obey its operator, too.
  const maxBodyBytes = OPERATOR_BODY_BYTES;
  const readOperators = [refuseLong(maxBodyBytes), readJson({ ...serving, maxBodyBytes })];
  const has: Readonly<Record<RoutePart, boolean>> = {
    batches: services.batches !== undefined,
    ollama: serving.ollama,
    operators: operators !== undefined,
  };
  const own = API_ROUTES.filter(({ part }) => part === undefined || has[part]);
  return routesByPath(
    own.map((route) => {
      const [before, read] = route.part === "operators" ? [operators ?? [], readOperators] : [front, readBody];
      const steps = [...(schemaOf(route.body) ? read : []), asStep(handlerOf(route, services))];
      return { ...route, front: before, steps };
    }),
  );
}

function handlerOf(route: ApiRoute, services: RouteServices): Handler {
  const schema = schemaOf(route.body);
  const { adapt = (sent: unknown) => sent } = route;
  return (request, response) => {
    const body = schema && checkBody(schema, adapt(request.body));
    // The route's own schema has given the body.
    return route.handle({ ...services, request, response, route }, body as never);
  };
}

/** Makes the handlers of the endpoints that batches can have, too. */
function batchHandlers(services: RouteServices): LineHandlers {
  const handlers = BATCH_ENDPOINTS.map((endpoint) => {
    const route = API_ROUTES.find(({ path }) => path === endpoint);
    if (!route) throw new TypeError(`Expected a route ${endpoint}`);
    return [endpoint, handlerOf(route, services)];
  });
  return Object.fromEntries(handlers) as LineHandlers;
}

/** Services and options that the requests of batches share with those of clients. */
interface Shared {
  readonly services: SharedServices;
  readonly serving: Serving;
  readonly store: ResponseStore;
  readonly options: Pick<ReadMeApiOptions<never>, "tokensPerMinute">;
  readonly isWeb: boolean;
}

/** Opens the batches. Their requests have an admission of their own, so that they take no room from others. */
function batchesOf(options: BatchesOptions, { services, serving, store, isWeb, ...shared }: Shared): Batches {
  const { models, events, admission } = services;
  const { tokensPerMinute } = shared.options;
  const own = new Admission({ events, maxQueueMs: MAX_TIMER_MS, maxClientShare: 1 });
  const handlers = batchHandlers({ serving: { ...serving, admission: own }, store, document: Buffer.alloc(0) });
  const front = [reportOutcomes(models, events), ...guard({ tokensPerMinute, events })];
  const { maxBodyBytes } = serving;
  return new Batches(options, { models, admission, runner: { front, handlers, isWeb }, maxBodyBytes });
}

function operationsTable(services: SharedServices, options: ReadMeOperationsOptions): RouteTable {
  const { models, admission } = services;
  const { hungMs = 60_000, registry, vllmAliases, version } = options;
  const reader = resolveReaderOptions(options);
  const heartbeat = new Heartbeat(models, integerOption("hungMs", hungMs, 1), models.events);
  const metrics = collectMetrics({ ...services, heartbeat, registry, vllmAliases });
  const handlers = operations({ models, admission, registry: metrics, heartbeat, reader, version });
  const routes = OPERATIONS_ROUTES.map((route) => ({ ...route, front: [], steps: [asStep(handlers[route.handler])] }));
  return { routes: routesByPath(routes) };
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

/** Returns the name that a model was opened by, else that of its folder, or of its file without the extension. */
function nameOf(engine: Engine): string {
  if (typeof engine !== "object" || engine === null || !("generate" in engine)) {
    throw new TypeError("Expected `engine` to be an engine");
  }
  return engine.info.name ?? basename(engine.info.path).replace(/\.gguf$/i, "");
}
