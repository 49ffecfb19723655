// Options of the API and of operations, and the tables of routes that follow from them.

import { basename } from "node:path";
import { type Engine, integerOption, MAX_TIMER_MS, ReadMeEmitter, rejectUnknownKeys } from "@readme-moe/core";
import type { GrammarsOptions } from "@readme-moe/grammar";
import type { Request as ExpressRequest } from "express";
import { readJson, refuseEarly, refuseLong } from "./api/body.ts";
import { API_OPTION_NAMES, type ApiOptions, resolveApiOptions, resolveReaderOptions } from "./api/options.ts";
import { OPERATOR_BODY_BYTES } from "./api/other-routes.ts";
import { EngineGrammars } from "./api/request-scope.ts";
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
import { Paces, type Step } from "./http/request.ts";
import { asStep, type Route, routesByPath, type RouteTable, schemaOf } from "./http/routes.ts";
import { describeRoutes } from "./openapi-document.ts";
import { type ResponsesOptions, ResponseStore } from "./responses/store.ts";
import { API_ROUTES, handlerOf, OPERATIONS_ROUTES, type RoutePart, type RouteServices } from "./routes.ts";

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

/** Names of options: those that all routes share, those of the API and its guard, and those of operations. */
const NAMES = {
  shared: ["engine", "models", "admission", "events"] satisfies readonly (keyof ServingOptions)[],
  guard: ["keys", "authorize", "requestsPerMinute", "tokensPerMinute"],
  api: [...API_OPTION_NAMES, "grammars", "experts", "responses", "batches", "cors"],
  operations: ["slowReaderMs", "timers", "hungMs", "version", "registry", "vllmAliases"],
} as const;

interface Services extends SharedServices {
  readonly table: RouteTable;
}

/** Routes to make. */
interface Wanted {
  /** @default those of the API and of operations */
  readonly only?: "api" | "operations";
  /** Whether hooks get requests of the web. @default false: they get Express's */
  readonly isWeb?: boolean;
}

/**
 * Makes routes with their services.
 *
 * @param name - name of the caller in messages
 * @throws {TypeError | RangeError} on wrong options
 */
export function makeServices(
  name: string,
  options: ReadMeOptions<never>,
  { only, isWeb = false }: Wanted = {},
): Services {
  const [hasApi, hasOperations] = [only !== "operations", only !== "api"];
  const known = [
    ...NAMES.shared,
    ...(hasApi ? [...NAMES.guard, ...NAMES.api] : []),
    ...(hasOperations ? NAMES.operations : []),
  ];
  rejectUnknownKeys(name, options, known);
  const services = servicesOf(options);
  const operationsRoutes = hasOperations ? makeOperationsRoutes(services, options) : [];
  const { routes = [], rest }: Partial<RouteTable> = hasApi ? makeApiTable(services, options, isWeb) : {};
  return { ...services, table: { routes: [...operationsRoutes, ...routes], ...(rest && { rest }) } };
}

function makeApiTable(services: SharedServices, options: ReadMeApiOptions<never>, isWeb: boolean): RouteTable {
  const { models, admission, events } = services;
  const { keys, authorize, requestsPerMinute, tokensPerMinute } = options;
  const guards = guard({ keys, authorize, requestsPerMinute, tokensPerMinute, events });
  const grammars = new EngineGrammars(models, options.grammars);
  const experts = resolveExpertsOptions(options.experts, keys);
  const serving = { models, admission, grammars, experts, paces: new Paces(), ...resolveApiOptions(options) };
  const outcomes = reportOutcomes(models, events);
  const operators = experts.operators && [outcomes, ...guard({ keys: experts.operators.keys, events })];
  const store = new ResponseStore(options.responses);
  // Requests of batches have an admission of their own, so that they take no room from others.
  const ofBatches = new Admission({ events, maxQueueMs: MAX_TIMER_MS, maxClientShare: 1 });
  const handlers = batchHandlers({
    serving: { ...serving, admission: ofBatches },
    store,
    document: Buffer.alloc(0),
  });
  const runner = { front: [outcomes, ...guard({ tokensPerMinute, events })], handlers, isWeb };
  const { maxBodyBytes } = serving;
  const batches = options.batches && new Batches(options.batches, { models, admission, runner, maxBodyBytes });
  const has = { operators: operators !== undefined, batches: batches !== undefined, ollama: serving.ollama };
  const document = Buffer.from(JSON.stringify(describeRoutes(has)));
  const pages = options.cors === undefined ? [] : [cors(options.cors)];
  // Permissions of web pages come before keys, which preflight requests do not have.
  const front = [...pages, outcomes, ...guards, checkVersion];
  const routes = makeApiRoutes({ serving, store, batches, document }, has, { front, operators });
  return { routes, rest: { prefix: "/v1", front } };
}

/** Makes the routes that this server has. @param before - steps before those of operators, and before all others */
function makeApiRoutes(
  services: RouteServices,
  has: Readonly<Record<RoutePart, boolean>>,
  before: { readonly front: readonly Step[]; readonly operators: readonly Step[] | undefined },
): readonly Route[] {
  const { serving } = services;
  const readBody = [refuseEarly(serving), readJson(serving)];
  // Without admission, since a full server has to obey its operator, too.
  const maxBodyBytes = OPERATOR_BODY_BYTES;
  const readOperators = [refuseLong(maxBodyBytes), readJson({ ...serving, maxBodyBytes })];
  const own = API_ROUTES.filter(({ part }) => part === undefined || has[part]);
  return routesByPath(
    own.map((route) => {
      const isOperators = route.part === "operators";
      const read = schemaOf(route.body) ? (isOperators ? readOperators : readBody) : [];
      const front = isOperators ? (before.operators ?? []) : before.front;
      return { ...route, front, steps: [...read, asStep(handlerOf(route, services))] };
    }),
  );
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

function makeOperationsRoutes(services: SharedServices, options: ReadMeOperationsOptions): readonly Route[] {
  const { models, admission } = services;
  const { hungMs = 60_000, registry, vllmAliases, version } = options;
  const reader = resolveReaderOptions(options);
  const heartbeat = new Heartbeat(models, integerOption("hungMs", hungMs, 1), models.events);
  const metrics = collectMetrics({ ...services, heartbeat, registry, vllmAliases });
  const handlers = operations({ models, admission, registry: metrics, heartbeat, reader, version });
  const routes = OPERATIONS_ROUTES.map((route) => ({ ...route, front: [], steps: [asStep(handlers[route.handler])] }));
  return routesByPath(routes);
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
