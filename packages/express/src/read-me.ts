// The whole middleware, and its two parts.

import { basename } from "node:path";
import { integerOption, ReadMeEmitter, rejectUnknownKeys, type Engine } from "@readme-moe/core";
import type { GrammarsOptions } from "@readme-moe/grammar";
import { Router } from "express";
import { apiRouter } from "./api/api-router.ts";
import { GrammarBook } from "./api/grammar-book.ts";
import { API_OPTION_NAMES, resolveApiOptions, type ApiOptions } from "./api/options.ts";
import { Admission } from "./edge/admission.ts";
import type { AdmissionOptions } from "./edge/admission/options.ts";
import { reportOutcomes } from "./edge/failures.ts";
import { guard, type GuardOptions } from "./edge/guard.ts";
import { collectMetrics, type MetricsOptions } from "./edge/metrics.ts";
import { operations, type OperationsOptions } from "./edge/operations.ts";
import { Heartbeat } from "./edge/heartbeat.ts";
import { ServedModels } from "./edge/served-models.ts";
import { openApiDocument } from "./openapi/document.ts";

/** What is served, and who may come in. Parts that are mounted apart are to get the same objects here. */
export interface ServingOptions {
  /** One engine, under the name of its folder or file. */
  readonly engine?: Engine | undefined;
  /** Engines by the names that clients use; a promise of one counts as loading until then. */
  readonly models?: ServedModels | Readonly<Record<string, Engine | PromiseLike<Engine>>> | undefined;
  /** Limits of what is taken in. */
  readonly admission?: Admission | AdmissionOptions | undefined;
  /** Where decisions about requests, and failed ones, are told. @default that of `models` */
  readonly events?: ReadMeEmitter | undefined;
}

/** The API: what it takes, how it answers, and the guard in front of it. */
export interface ReadMeApiOptions extends ServingOptions, ApiOptions, Omit<GuardOptions, "events"> {
  /** Limits of what answers can be bound to. */
  readonly grammars?: GrammarsOptions | undefined;
}

/** Health and metrics. */
export interface ReadMeOperationsOptions
  extends ServingOptions, Pick<OperationsOptions, "version">, Pick<MetricsOptions, "registry" | "vllmAliases"> {
  /** An engine that owes an answer for this long counts as hung: `/health`, `/readyz` and `/livez` say no. @default 60,000 */
  readonly hungMs?: number | undefined;
}

/** Of `readMe`: everything that the API and operations take. */
export interface ReadMeOptions extends ReadMeApiOptions, ReadMeOperationsOptions {}

interface Serving {
  readonly models: ServedModels;
  readonly admission: Admission;
  readonly events: ReadMeEmitter;
}

const SERVING_NAMES = ["engine", "models", "admission", "events"] as const satisfies readonly (keyof ServingOptions)[];
const GUARD_NAMES = ["keys", "authorize", "requestsPerMinute", "tokensPerMinute"] as const;
const OPERATIONS_NAMES = ["version"] as const;
const METRICS_NAMES = ["registry", "vllmAliases"] as const;
const OWN_OPERATIONS_NAMES = ["hungMs", ...OPERATIONS_NAMES, ...METRICS_NAMES] as const;
const API_NAMES = [...SERVING_NAMES, ...GUARD_NAMES, ...API_OPTION_NAMES, "grammars"] as const;

/**
 * The OpenAI API over Read-ME engines, with health and metrics, at the root of where it is mounted.
 *
 * @throws {TypeError | RangeError} on wrong options
 */
export function readMe(options: ReadMeOptions): Router {
  rejectUnknownKeys("readMe", options, [...API_NAMES, ...OWN_OPERATIONS_NAMES]);
  const serving = servingOf(options);
  const router = Router();
  router.use(operationsOver(serving, options));
  router.use(apiOver(serving, options));
  return router;
}

/**
 * `/v1/chat/completions`, `/v1/completions`, `/v1/models`, `/tokenize`, `/detokenize`, `/openapi.json`.
 *
 * @throws {TypeError | RangeError} on wrong options
 */
readMe.api = (options: ReadMeApiOptions): Router => {
  rejectUnknownKeys("readMe.api", options, API_NAMES);
  return apiOver(servingOf(options), options);
};

/**
 * `/health`, `/livez`, `/readyz`, `/metrics`, `/version`.
 *
 * @throws {TypeError | RangeError} on wrong options
 */
readMe.operations = (options: ReadMeOperationsOptions): Router => {
  rejectUnknownKeys("readMe.operations", options, [...SERVING_NAMES, ...OWN_OPERATIONS_NAMES]);
  const router = Router();
  router.use(operationsOver(servingOf(options), options));
  return router;
};

function apiOver(serving: Serving, options: ReadMeApiOptions): Router {
  const front = guard({ ...pick(options, GUARD_NAMES), events: serving.events });
  const grammarBook = new GrammarBook(serving.models, options.grammars);
  const api = { ...serving, grammarBook, ...resolveApiOptions(pick(options, API_OPTION_NAMES)) };
  return apiRouter(api, openApiDocument(), [reportOutcomes(serving.models, serving.events), ...front]);
}

function operationsOver(serving: Serving, options: ReadMeOperationsOptions): ReturnType<typeof operations> {
  const { models, admission } = serving;
  const heartbeat = new Heartbeat(models, integerOption("hungMs", options.hungMs ?? 60_000, 1), models.events);
  const registry = collectMetrics({ ...serving, heartbeat, ...pick(options, METRICS_NAMES) });
  return operations({ models, admission, registry, heartbeat, ...pick(options, OPERATIONS_NAMES) });
}

function servingOf({ engine, models, admission = {}, events }: ServingOptions): Serving {
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

/** A model's folder, or file without its ending. */
function nameOf(engine: Engine): string {
  if (typeof engine !== "object" || engine === null || !("generate" in engine)) {
    throw new TypeError("Expected `engine` to be an engine");
  }
  return basename(engine.info.path).replace(/\.gguf$/i, "");
}

function pick<Options extends object, Name extends keyof Options>(
  options: Options,
  names: readonly Name[],
): Pick<Options, Name> {
  const given = names.filter((name) => options[name] !== undefined).map((name) => [name, options[name]] as const);
  return Object.fromEntries(given) as unknown as Pick<Options, Name>;
}
