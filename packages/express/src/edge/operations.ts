// Routes for those who run the server: is it alive, may it be sent requests, what does it do.

import { readFileSync } from "node:fs";
import { rejectUnknownKeys } from "@readme-moe/core";
import { Router, type Request, type RequestHandler, type Response } from "express";
import type { Registry } from "prom-client";
import type { Admission } from "./admission.ts";
import { oneAtATime } from "../http/request.ts";
import type { Heartbeat } from "./operations/heartbeat.ts";
import { verdicts, type Verdict } from "./operations/verdicts.ts";
import type { ServedModels } from "./served-models.ts";

export interface OperationsOptions {
  readonly models: ServedModels;
  /** Told by `/health` and `/readyz`; it changes neither's status. */
  readonly admission?: Admission | undefined;
  /** Of `collectMetrics`. @default no `/metrics` */
  readonly registry?: Registry | undefined;
  readonly heartbeat: Heartbeat;
  /** Of the service that this is part of. @default of this package */
  readonly version?: string | undefined;
}

const NAMES = ["models", "admission", "registry", "heartbeat", "version"] as const;

/**
 * - `/health`: 200 when every model works, 503 while one is loaded, fails its requests, hangs or has failed; load does not
 *   change it.
 * - `/readyz`: 200 when some model works, so that requests may be sent here; 503 also while the server shuts down.
 * - `/livez`: 200 unless an engine hangs, fails its requests and is not opened again, or has failed for good: the process had
 *   better be started anew.
 * - `/metrics`, `/version`.
 *
 * @throws {TypeError | RangeError} on wrong options
 */
export function operations(options: OperationsOptions): RequestHandler {
  rejectUnknownKeys("operations", options, NAMES);
  const { models, admission, registry, heartbeat, version = ownVersion() } = options;
  const judged = (): ReturnType<typeof verdicts> => {
    const hung = heartbeat.hungNames(performance.now());
    const conditions = models.states().map((condition) => ({ ...condition, isHung: hung.includes(condition.name) }));
    return verdicts(conditions, models.isDraining);
  };
  const router = Router();
  const get = (path: string, handler: RequestHandler): void => void router.get(path, oneAtATime, handler);

  get("/health", (_request, response) =>
    tell(response, judged().health, () => ({ status: "ok", ...loadOf(admission) })),
  );
  get("/readyz", (_request, response) => {
    // Here it is for good.
    if (models.isDraining) response.set("x-should-retry", "false");
    tell(response, judged().ready, () => ({ status: "ready", models: models.states(), ...loadOf(admission) }));
  });
  get("/livez", (_request, response) => tell(response, judged().live, () => ({ status: "alive" })));
  get("/version", (_request, response) => answer(response, { version }));
  if (registry) {
    const scrape = shared(() => registry.metrics());
    get("/metrics", async (_request: Request, response: Response) => {
      const text = await scrape();
      response.set("cache-control", "no-store").type(registry.contentType).send(text);
    });
  }
  return router;
}

/** Calls that come while one is under way get its result. */
function shared<Result>(call: () => Promise<Result>): () => Promise<Result> {
  let current: Promise<Result> | undefined;
  return () => (current ??= call().finally(() => (current = undefined)));
}

function tell(response: Response, verdict: Verdict, body: () => object): void {
  if (verdict.isGood) answer(response, body());
  else refuse(response, verdict.message);
}

function loadOf(admission: Admission | undefined): object {
  if (!admission) return {};
  const { requests, waiting, limits } = admission.stats;
  return { active: requests - waiting, queued: waiting, capacity: limits.requests };
}

function answer(response: Response, body: object): void {
  response.set("cache-control", "no-store").json(body);
}

function refuse(response: Response, message: string): void {
  const error = { code: 503, message, type: "unavailable_error" };
  response.status(503).set("cache-control", "no-store").json({ error });
}

function ownVersion(): string {
  const manifest = readFileSync(new URL("../../package.json", import.meta.url), "utf8");
  return (JSON.parse(manifest) as { readonly version: string }).version;
}
