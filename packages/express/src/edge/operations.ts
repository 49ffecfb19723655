// Routes for those who run the server: is it alive, may it be sent requests, what does it do.

import { readFileSync } from "node:fs";
import { integerOption, rejectUnknownKeys } from "@readme-moe/core";
import { Router, type Request, type RequestHandler, type Response } from "express";
import type { Registry } from "prom-client";
import type { Admission } from "./admission.ts";
import { heartbeat } from "./operations/heartbeat.ts";
import { oneAtATime } from "../http/one-at-a-time.ts";
import type { ServedModels } from "./served-models.ts";

export interface OperationsOptions {
  readonly models: ServedModels;
  /** Told by `/health` and `/readyz`; it changes neither's status. */
  readonly admission?: Admission | undefined;
  /** Of `collectMetrics`. @default no `/metrics` */
  readonly registry?: Registry | undefined;
  /** An engine that owes an answer for this long makes `/livez` say no. @default 60,000 */
  readonly hungMs?: number | undefined;
  /** Of the service that this is part of. @default of this package */
  readonly version?: string | undefined;
}

const NAMES = ["models", "admission", "registry", "hungMs", "version"] as const;

/**
 * - `/health`: 200 when every model works, 503 while one is loaded or has failed; load does not change it.
 * - `/readyz`: 200 when requests may be sent here; 503 also while the server shuts down.
 * - `/livez`: 200 unless an engine hangs or has failed for good: the process had better be started anew.
 * - `/metrics`, `/version`.
 *
 * @throws {TypeError | RangeError} on wrong options
 */
export function operations(options: OperationsOptions): RequestHandler {
  rejectUnknownKeys("operations", options, NAMES);
  const { models, admission, registry, version = ownVersion() } = options;
  const hungNames = heartbeat(models, integerOption("hungMs", options.hungMs ?? 60_000, 1));
  const router = Router();
  const get = (path: string, handler: RequestHandler): void => void router.get(path, oneAtATime, handler);

  get("/health", (_request, response) => {
    const [trouble] = models.states().filter(({ state }) => state !== "ready");
    if (trouble?.state === "loading") refuse(response, "Loading model");
    else if (trouble) refuse(response, `The model ${trouble.name} has failed`);
    else answer(response, { status: "ok", ...loadOf(admission) });
  });
  get("/readyz", (_request, response) => {
    if (models.isDraining) refuse(response.set("x-should-retry", "false"), "Shutting down");
    else if (models.states().every(({ state }) => state !== "ready")) refuse(response, "No model is ready");
    else answer(response, { status: "ready", models: models.states(), ...loadOf(admission) });
  });
  get("/livez", (_request, response) => {
    const hung = hungNames(performance.now());
    const failed = models.states().filter(({ state }) => state === "failed");
    if (hung.length > 0) refuse(response, `No answer from the engine of ${hung.join(", ")}`);
    else if (failed.length > 0)
      refuse(response, `The engine of ${failed.map(({ name }) => name).join(", ")} has failed`);
    else answer(response, { status: "alive" });
  });
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
