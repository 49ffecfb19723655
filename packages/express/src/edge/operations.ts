// Routes for operators: health, readiness, liveness, metrics and version; and the heartbeat of engines.

import { readFileSync } from "node:fs";
import { type Engine, LOAD_STAGES, loadText, type LoadStage, type ReadMeEmitter } from "@readme-moe/core";
import type { Registry } from "prom-client";
import { z } from "zod";
import { retryHeaders } from "../http/errors.ts";
import { JSON_TYPE, type ReaderOptions, sendBytes, sendText } from "../http/reply.ts";
import { clientName, type Handler, type Reply } from "../http/request.ts";
import type { Admission } from "./admission.ts";
import { canBeAsked, MODEL_STATES, type ModelCondition } from "./models/model-entry.ts";
import type { ServedModels } from "./served-models.ts";

export interface OperationsOptions {
  readonly models: ServedModels;
  /**
   * Admission whose load `/health` and `/readyz` show; it does not change their status. `/metrics` takes room in it for
   * its answers, and the other routes, whose answers are small, do not.
   */
  readonly admission?: Admission | undefined;
  /** Registry of `collectMetrics`. */
  readonly registry: Registry;
  readonly heartbeat: Heartbeat;
  /** Limits of readers of `/metrics`. */
  readonly reader: ReaderOptions;
  /** Version of the service. @default the version of this package */
  readonly version?: string | undefined;
}

// Schemas of the answers, for the OpenAPI document and for tests.
const load = {
  active: z.int().min(0).optional().describe("Requests with a first token"),
  queued: z.int().min(0).optional().describe("Requests without a first token"),
  capacity: z.int().min(1).optional().describe("Requests that may be admitted at once"),
};

export const healthAnswer = z.strictObject({ status: z.literal("ok"), ...load });

const progress = z.strictObject({
  stage: z.enum(Object.keys(LOAD_STAGES) as LoadStage[]),
  done_bytes: z.int().min(0),
  of_bytes: z.int().min(0).describe("0 where it is unknown"),
  seconds_left: z.number().min(0).optional().describe("Of this stage, at the rate of the last seconds"),
});

export const readyAnswer = z.strictObject({
  status: z.literal("ready"),
  models: z.array(
    z.strictObject({
      name: z.string(),
      state: z.enum(MODEL_STATES),
      code: z.string().optional().describe("Code of the error that keeps it from being ready"),
      message: z.string().optional().describe("Message of the error that its requests get at this time"),
      progress: progress.optional().describe("How far it is with opening"),
    }),
  ),
  ...load,
});

export const liveAnswer = z.strictObject({ status: z.literal("alive") });

export const versionAnswer = z.strictObject({ version: z.string() });

export const unavailableAnswer = z.strictObject({
  error: z.strictObject({ code: z.literal(503), message: z.string(), type: z.literal("unavailable_error") }),
  loading: z.array(z.strictObject({ name: z.string(), text: z.string(), ...progress.shape })).optional(),
});

/** Handlers of the routes, by what they tell. */
export type Operations = Readonly<Record<"health" | "ready" | "live" | "version" | "metrics", Handler>>;

/**
 * Creates the handlers.
 * - `health`: 200 while every model works; 503 while one loads, fails its requests, hangs or has failed. Load does not
 *   change it.
 * - `ready`: 200 while some model works, so that requests may be sent here; 503 also while the server shuts down.
 * - `live`: 503 while an engine hangs, fails its requests without being opened again, or has failed for good, so that
 *   the process should be restarted; else 200.
 */
export function operations(options: OperationsOptions): Operations {
  const { models, admission, registry, heartbeat, version = ownVersion() } = options;
  const judged = (): Verdicts => {
    const hung = heartbeat.hungNames(performance.now());
    const conditions = models.states().map((condition) => ({ ...condition, isHung: hung.includes(condition.name) }));
    return verdicts(conditions, models.isDraining);
  };
  const shown = () => models.states().map((one) => ({ ...one, progress: one.progress && progressOf(one.progress) }));
  return {
    health(_request, response) {
      const loading = models.states().filter(({ state }) => state === "loading");
      answer(response, judged().health, () => ({ status: "ok", ...loadOf(admission) }), loading);
    },
    ready(_request, response) {
      // This process does not come back.
      if (models.isDraining) response.setHeader("x-should-retry", "false");
      answer(response, judged().ready, () => ({ status: "ready", models: shown(), ...loadOf(admission) }));
    },
    live: (_request, response) => answer(response, judged().live, () => ({ status: "alive" })),
    version: (_request, response) => answer(response, GOOD, () => ({ version })),
    metrics: sendMetrics(registry, options),
  };
}

function sendMetrics(registry: Registry, { admission, reader }: OperationsOptions): Handler {
  const scrape = shared(async () => Buffer.from(await registry.metrics()));
  return async (request, response) => {
    const text = await scrape();
    response.setHeader("cache-control", "no-store");
    const release = admission?.send({ key: undefined, client: clientName(request, response), bytes: text.length });
    await sendBytes(response, { parts: [text], type: registry.contentType }, reader).finally(release);
  };
}

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
  const working = models.filter((model) => canBeAsked(model) && !model.isHung);
  const notLoading = models.filter((model) => model.isHung || (!canBeAsked(model) && model.state !== "loading"));
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

function described({ state, code, message, isHung }: JudgedModel): string {
  const because = code === undefined ? "" : ` (${code})`;
  if (isHung && (state === "ready" || state === "failing")) return "does not answer";
  switch (state) {
    case "closed":
      return code === undefined
        ? "is closed"
        : `could not be opened${because}${message === undefined ? "" : `: ${message}`}`;
    case "opening":
    case "loading":
      return "is loading";
    case "ready":
      return "works";
    case "waiting":
      return `cannot answer${because}${message === undefined ? "" : `: ${message}`}`;
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

/** @param loading - models that are the reason for a bad verdict, if their progress is to be told */
function answer(response: Reply, verdict: Verdict, body: () => object, loading: readonly ModelCondition[] = []): void {
  response.setHeader("cache-control", "no-store");
  if (verdict.isGood) return sendText(response, JSON.stringify(body()), JSON_TYPE);
  response.statusCode = 503;
  const told = loading.flatMap(({ name, progress: own }) =>
    own ? [{ name, text: loadText(own), ...progressOf(own) }] : [],
  );
  const leftMs = told.flatMap(({ seconds_left: left }) => (left === undefined ? [] : 1000 * left));
  if (leftMs.length > 0) response.setHeader("retry-after", retryHeaders(Math.max(...leftMs))["retry-after"] ?? "1");
  const error = { code: 503, message: verdict.message, type: "unavailable_error" };
  sendText(response, JSON.stringify(told.length === 0 ? { error } : { error, loading: told }), JSON_TYPE);
}

function progressOf({ stage, doneBytes, ofBytes, secondsLeft }: NonNullable<ModelCondition["progress"]>) {
  const left = secondsLeft === undefined ? {} : { seconds_left: secondsLeft };
  return { stage, done_bytes: doneBytes, of_bytes: ofBytes, ...left };
}

function loadOf(admission: Admission | undefined): object {
  if (!admission) return {};
  const { requests, waiting, limits } = admission.stats;
  return { active: requests - waiting, queued: waiting, capacity: limits.requests };
}

function shared<Result>(call: () => Promise<Result>): () => Promise<Result> {
  let current: Promise<Result> | undefined;
  return () => (current ??= call().finally(() => (current = undefined)));
}

function ownVersion(): string {
  const path = new URL("../../package.json", import.meta.url);
  const manifest: { readonly version: string } = JSON.parse(readFileSync(path, "utf8"));
  return manifest.version;
}

interface Served {
  list(): readonly { readonly name: string; readonly engine: Engine }[];
}

interface Overdue {
  readonly name: string;
  readonly overdueMs: number;
}

/**
 * Asks each engine for an answer whenever its own state is asked for, unless the engine still owes an earlier answer.
 */
export class Heartbeat {
  readonly #models: Served;
  readonly #hungMs: number;
  readonly #events: Pick<ReadMeEmitter, "emit">;
  readonly #askedMs = new WeakMap<Engine, number>();
  /** Hung engines by name, as far as they were reported. */
  readonly #reported = new Map<string, Engine>();

  /** @param events - bus of `engine:hung` and `engine:recovered` */
  constructor(models: Served, hungMs: number, events: Pick<ReadMeEmitter, "emit">) {
    this.#models = models;
    this.#hungMs = hungMs;
    this.#events = events;
  }

  /** Names the models whose engine has not answered for `hungMs`. */
  hungNames(nowMs: number): readonly string[] {
    return this.overdue(nowMs).flatMap(({ name, overdueMs }) => (overdueMs >= this.#hungMs ? [name] : []));
  }

  /** Returns how long each engine's answer is overdue; 0 where no answer is. */
  overdue(nowMs: number): readonly Overdue[] {
    const all = this.#models.list().map(({ name, engine }) => ({ name, engine, overdueMs: this.#ask(engine, nowMs) }));
    for (const { name, engine, overdueMs } of all) {
      if (overdueMs < this.#hungMs || this.#reported.get(name) === engine) continue;
      this.#reported.set(name, engine);
      this.#events.emit("engine:hung", { name, overdueMs });
    }
    return all;
  }

  #ask(engine: Engine, nowMs: number): number {
    const sinceMs = this.#askedMs.get(engine);
    if (sinceMs !== undefined) return nowMs - sinceMs;
    this.#askedMs.set(engine, nowMs);
    const settle = (isAnswer: boolean): void => {
      this.#askedMs.delete(engine);
      for (const [name, reported] of this.#reported) {
        if (reported !== engine) continue;
        this.#reported.delete(name);
        if (isAnswer) this.#events.emit("engine:recovered", { name, from: "hung" });
      }
    };
    // A failed engine rejects at once, and has not recovered.
    engine.stats().then(
      () => settle(true),
      () => settle(false),
    );
    return 0;
  }
}
