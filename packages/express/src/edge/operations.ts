// Routes for operators: health, readiness, liveness, metrics and version.

import { readFileSync } from "node:fs";
import { rejectUnknownKeys } from "@readme-moe/core";
import { Router, type RequestHandler, type Response } from "express";
import type { Registry } from "prom-client";
import { z } from "zod";
import { ApiError, sendError } from "../http/errors.ts";
import { oneAtATime } from "../http/request.ts";
import type { Admission } from "./admission.ts";
import type { Heartbeat } from "./heartbeat.ts";
import { MODEL_STATES } from "./models/model-entry.ts";
import type { ModelCondition, ServedModels } from "./served-models.ts";

export interface OperationsOptions {
  readonly models: ServedModels;
  /** Admission whose load `/health` and `/readyz` show; it does not change their status. */
  readonly admission?: Admission | undefined;
  /** Registry of `collectMetrics`. @default no `/metrics` */
  readonly registry?: Registry | undefined;
  readonly heartbeat: Heartbeat;
  /** Version of the service. @default the version of this package */
  readonly version?: string | undefined;
}

const NAMES = ["models", "admission", "registry", "heartbeat", "version"] as const;

// Schemas of the answers, for the OpenAPI document and for tests.
const load = {
  active: z.int().min(0).optional().describe("Requests with a first token"),
  queued: z.int().min(0).optional().describe("Requests without a first token"),
  capacity: z.int().min(1).optional().describe("Requests that may be admitted at once"),
};

export const healthAnswer = z.strictObject({ status: z.literal("ok"), ...load });

export const readyAnswer = z.strictObject({
  status: z.literal("ready"),
  models: z.array(
    z.strictObject({
      name: z.string(),
      state: z.enum(MODEL_STATES),
      code: z.string().optional().describe("Code of the error that keeps it from being ready"),
    }),
  ),
  ...load,
});

export const liveAnswer = z.strictObject({ status: z.literal("alive") });

export const versionAnswer = z.strictObject({ version: z.string() });

export const unavailableAnswer = z.strictObject({
  error: z.strictObject({ code: z.literal(503), message: z.string(), type: z.literal("unavailable_error") }),
});

/**
 * Creates the routes.
 * - `/health`: 200 while every model works; 503 while one loads, fails its requests, hangs or has failed. Load does not
 *   change it.
 * - `/readyz`: 200 while some model works, so that requests may be sent here; 503 also while the server shuts down.
 * - `/livez`: 503 while an engine hangs, fails its requests without being opened again, or has failed for good, so that
 *   the process should be restarted; else 200.
 * - `/metrics`, `/version`.
 *
 * @throws {TypeError | RangeError} on wrong options
 */
export function operations(options: OperationsOptions): RequestHandler {
  rejectUnknownKeys("operations", options, NAMES);
  const { models, admission, registry, heartbeat, version = ownVersion() } = options;
  const judged = (): Verdicts => {
    const hung = heartbeat.hungNames(performance.now());
    const conditions = models.states().map((condition) => ({ ...condition, isHung: hung.includes(condition.name) }));
    return verdicts(conditions, models.isDraining);
  };
  const router = Router();
  const get = (path: string, handler: RequestHandler): void => {
    router.route(path).all(oneAtATime).get(handler).all(refuseMethod);
  };

  get("/health", (_request, response) =>
    answer(response, judged().health, () => ({ status: "ok", ...loadOf(admission) })),
  );
  get("/readyz", (_request, response) => {
    // This process does not come back.
    if (models.isDraining) response.set("x-should-retry", "false");
    answer(response, judged().ready, () => ({ status: "ready", models: models.states(), ...loadOf(admission) }));
  });
  get("/livez", (_request, response) => answer(response, judged().live, () => ({ status: "alive" })));
  get("/version", (_request, response) => answer(response, GOOD, () => ({ version })));
  if (registry) {
    const scrape = shared(() => registry.metrics());
    get("/metrics", async (_request, response) => {
      const text = await scrape();
      response.set("cache-control", "no-store").type(registry.contentType).send(text);
    });
  }
  return router;
}

/** Refuses methods that only read routes do not have. */
const refuseMethod: RequestHandler = (request, response) => {
  response.setHeader("Allow", "GET, HEAD");
  if (request.method === "OPTIONS") {
    response.status(204).end();
    return;
  }
  const message = `Expected GET, HEAD, got ${request.method}`;
  sendError(
    response,
    new ApiError({ status: 405, type: "invalid_request_error", code: "method_not_allowed", message }),
  );
};

/** Answer of one route of health: 200, or 503 with a message. */
type Verdict = { readonly isGood: true } | { readonly isGood: false; readonly message: string };

interface Verdicts {
  readonly health: Verdict;
  readonly ready: Verdict;
  readonly live: Verdict;
}

/** State of a model, and whether its engine's answer is overdue for too long. */
export interface JudgedModel extends ModelCondition {
  readonly isHung: boolean;
}

const GOOD: Verdict = { isGood: true };

/** @param models - all served models, one or more */
export function verdicts(models: readonly JudgedModel[], isDraining: boolean): Verdicts {
  const working = models.filter((model) => model.state === "ready" && !model.isHung);
  const notLoading = models.filter(({ state, isHung }) => isHung || (state !== "ready" && state !== "loading"));
  // A loading or restarting engine does not need another process.
  const lost = models.filter(({ state, isHung }) => isHung || state === "failing" || state === "failed");
  // The clients of llama.cpp wait while the message is "Loading model".
  const trouble = notLoading.length === 0 ? "Loading model" : listed(notLoading);
  return {
    health: working.length === models.length ? GOOD : bad(trouble),
    ready: isDraining ? bad("Shutting down") : working.length > 0 ? GOOD : bad(`No model is ready: ${listed(models)}`),
    live: lost.length === 0 ? GOOD : bad(listed(lost)),
  };
}

function listed(models: readonly JudgedModel[]): string {
  return models.map((model) => `the model ${model.name} ${described(model)}`).join("; ");
}

function described({ state, code, isHung }: JudgedModel): string {
  const because = code === undefined ? "" : ` (${code})`;
  if (isHung && (state === "ready" || state === "failing")) return "does not answer";
  switch (state) {
    case "loading":
      return "is loading";
    case "ready":
      return "works";
    case "failing":
      return `fails its requests${because}`;
    case "restarting":
      return `has failed and is being opened again${because}`;
    case "failed":
      return `has failed${because}`;
    default:
      throw new TypeError(`Unknown state: ${String(state satisfies never)}`);
  }
}

function bad(message: string): Verdict {
  return { isGood: false, message: message.charAt(0).toUpperCase() + message.slice(1) };
}

function answer(response: Response, verdict: Verdict, body: () => object): void {
  response.set("cache-control", "no-store");
  if (verdict.isGood) response.json(body());
  else response.status(503).json({ error: { code: 503, message: verdict.message, type: "unavailable_error" } });
}

function loadOf(admission: Admission | undefined): object {
  if (!admission) return {};
  const { requests, waiting, limits } = admission.stats;
  return { active: requests - waiting, queued: waiting, capacity: limits.requests };
}

/** Makes calls that come during a call share its result. */
function shared<Result>(call: () => Promise<Result>): () => Promise<Result> {
  let current: Promise<Result> | undefined;
  return () => (current ??= call().finally(() => (current = undefined)));
}

function ownVersion(): string {
  const path = new URL("../../package.json", import.meta.url);
  const manifest: { readonly version: string } = JSON.parse(readFileSync(path, "utf8"));
  return manifest.version;
}
