// Which engine answers a request. An engine can be replaced while it serves: new requests go to the new engine, and the
// old one is disposed when its last request has ended.

import { integerOption, type Engine, type ReadMeEmitter } from "@readme-moe/core";
import type { Request, RequestHandler, Response } from "express";
import { asApiError } from "../http/errors.ts";
import { knownLocals } from "../http/request.ts";
import { faultChain, outcomeKind } from "./models/engine-health.ts";
import { ModelEntry, type Lease, type ModelState, type ServedEngine } from "./models/model-entry.ts";
import {
  resolveServedModelsOptions,
  type Asking,
  type ResolvedServedModelsOptions,
  type ServedModelsOptions,
} from "./models/options.ts";
import { badShare, modelFailed, modelLoading, noModelNamed, shuttingDown, unknownModel } from "./refusals.ts";
import { MAX_TIMER_MS } from "../http/timers.ts";

export type { Lease } from "./models/model-entry.ts";

/** A model that requests can name. */
export interface ServedModel {
  readonly name: string;
  readonly engine: Engine;
  /** Time at which this engine took over the name, in ms since 1970. */
  readonly createdMs: number;
  readonly aliases: readonly string[];
}

/** State of a model. */
export interface ModelCondition {
  readonly name: string;
  readonly state: ModelState;
  /** Code of the error that keeps it from being ready. */
  readonly code?: string;
}

/** Options of `ServedModels.set`, for the engine that is replaced. */
export interface SwapOptions {
  /** Longest time that the old engine's requests may still take, in ms. @default no limit */
  readonly drainMs?: number | undefined;
  /** Whether the old engine is disposed when its last request has ended. @default true */
  readonly dispose?: boolean | undefined;
}

/** Options of `ServedModels.drain`. Times in ms. */
export interface DrainOptions {
  /**
   * Time in which requests are still accepted while `/readyz` already answers 503, for balancers to notice. @default 0
   */
  readonly noticeMs?: number | undefined;
  /** Longest time that requests under way may still take. @default 30,000 */
  readonly deadlineMs?: number | undefined;
}

/** Wait that clients are told while a model loads or restarts, which takes an unknown time. */
const LOADING_RETRY_MS = 5000;

/**
 * Maps the names that requests use to engines. Engines can be replaced, share traffic, and be opened again after a
 * failure, all while requests run. A request keeps the engine that it began with.
 */
export class ServedModels {
  readonly #options: ResolvedServedModelsOptions;
  readonly #entries = new Map<string, ModelEntry>();
  /** Replaced engines that still have requests. */
  readonly #retired = new Set<ServedEngine>();
  readonly #watchers: ((name: string, engine: Engine) => void)[] = [];
  #drained: Promise<number> | undefined;
  #isClosed = false;
  readonly #leases = new WeakMap<Asking["request"], Lease>();

  /**
   * @param models - engines by the names that clients use; a promise of an engine counts as loading
   * @throws {TypeError | RangeError} on wrong options
   */
  constructor(models: Readonly<Record<string, Engine | PromiseLike<Engine>>>, options: ServedModelsOptions = {}) {
    this.#options = resolveServedModelsOptions(options, Object.keys(models));
    for (const [name, source] of Object.entries(models)) {
      const entry = new ModelEntry(name, this.#options);
      this.#entries.set(name, entry);
      if (isEngine(source)) this.#serve(entry, source);
      else void this.#load(entry, source);
    }
  }

  /** Bus of `model:swapped`, `request:failed` and the events of engines. */
  get events(): ReadMeEmitter {
    return this.#options.events;
  }

  /** Whether `drain` was called. */
  get isDraining(): boolean {
    return this.#drained !== undefined;
  }

  /** Number of requests that use an engine now. */
  get numLeases(): number {
    return this.#served().reduce((sum, { numLeases }) => sum + numLeases, 0);
  }

  /** Returns the state of each model. */
  states(): readonly ModelCondition[] {
    return [...this.#entries.values()].map(({ name, state, code }) => ({
      name,
      state,
      ...(code === undefined ? {} : { code }),
    }));
  }

  /** Returns a request's last lease, also after its release. */
  leaseOf(request: Asking["request"]): Lease | undefined {
    return this.#leases.get(request);
  }

  /** Lists the models that are open. */
  list(): readonly ServedModel[] {
    return [...this.#entries.values()].flatMap(({ name, current, createdMs }) => {
      const aliases = [...this.#options.aliases].filter(([, of]) => of === name).map(([alias]) => alias);
      return current ? [{ name, engine: current.engine, createdMs, aliases }] : [];
    });
  }

  /** Calls `listener` for each engine that serves now, and for each that will serve later. */
  watch(listener: (name: string, engine: Engine) => void): void {
    this.#watchers.push(listener);
    for (const { name, engine } of this.list()) listener(name, engine);
  }

  /**
   * Leases the engine for a request, which has to release it.
   *
   * @throws {ApiError} 404 `model_not_found`; 400 where several models are served and none is named; 503
   * `model_loading`, `model_failed`, `shutting_down`; 500 when `share` fails or names no model
   */
  lease(name: string | undefined, about: Asking): Lease {
    if (this.#isClosed) throw shuttingDown();
    const entry = this.#entryFor(name, about);
    if (entry.state === "failed") throw modelFailed(entry.name);
    // A failing engine still gets requests: an answer shows that it works again.
    const isOpen = entry.state === "ready" || entry.state === "failing";
    if (!isOpen || !entry.current) throw modelLoading(entry.name, LOADING_RETRY_MS);
    const lease = entry.current.lease();
    this.#leases.set(about.request, lease);
    return lease;
  }

  /**
   * Makes an engine serve a name, new or known, from now on.
   *
   * @returns a promise that resolves when the previous engine's last request has ended and that engine is disposed
   * @throws {ApiError} 503 when the server is shutting down
   */
  async set(name: string, engine: Engine, { drainMs, dispose = true }: SwapOptions = {}): Promise<void> {
    if (drainMs !== undefined) integerOption("drainMs", drainMs, 0, MAX_TIMER_MS);
    if (!isEngine(engine)) throw new TypeError("Expected `engine` to be an engine");
    if (this.#options.aliases.has(name)) throw new TypeError(`Expected \`name\` not to be an alias, got \`${name}\``);
    if (this.isDraining) throw shuttingDown();
    const entry = this.#entries.get(name) ?? new ModelEntry(name, this.#options);
    if (entry.current?.engine === engine) return;
    this.#entries.set(name, entry);
    const before = this.#serve(entry, engine);
    if (!before) return;
    this.#retired.add(before);
    await (drainMs === undefined ? before.whenIdle() : within(drainMs, before.whenIdle()));
    // The engine may serve another name, or this one again.
    const isUsed = (): boolean => this.#served().some((one) => one !== before && one.engine === before.engine);
    try {
      if (dispose && !isUsed()) await before.engine.dispose();
    } finally {
      this.#retired.delete(before);
    }
  }

  /**
   * Accepts no more requests, waits for those under way, ends what is left at the deadline, and disposes all engines.
   * Further calls get the same promise.
   *
   * @returns the number of requests that were ended
   */
  drain({ noticeMs = 0, deadlineMs = 30_000 }: DrainOptions = {}): Promise<number> {
    integerOption("noticeMs", noticeMs, 0, MAX_TIMER_MS);
    integerOption("deadlineMs", deadlineMs, 0, MAX_TIMER_MS);
    return (this.#drained ??= this.#drain(noticeMs, deadlineMs));
  }

  async #drain(noticeMs: number, deadlineMs: number): Promise<number> {
    if (noticeMs > 0) await within(noticeMs, new Promise(() => undefined));
    this.#isClosed = true;
    for (const entry of this.#entries.values()) entry.retire();
    const served = this.#served();
    await within(deadlineMs, Promise.all(served.map((one) => one.whenIdle())));
    const numEnded = this.numLeases;
    await Promise.all([...new Set(served.map(({ engine }) => engine))].map((engine) => engine.dispose()));
    return numEnded;
  }

  async #load(entry: ModelEntry, source: PromiseLike<Engine>): Promise<void> {
    try {
      const engine = await source;
      // Another engine was set meanwhile, or the server has shut down.
      if (this.#isClosed || entry.current) await engine.dispose();
      else this.#serve(entry, engine);
    } catch (error) {
      if (!entry.current) entry.fail(error);
    }
  }

  #serve(entry: ModelEntry, engine: Engine): ServedEngine | undefined {
    const before = entry.replace(engine);
    for (const watcher of this.#watchers) watcher(entry.name, engine);
    if (before) {
      const { name } = entry;
      const [path, previousPath] = [engine.info.path, before.engine.info.path];
      this.events.emit("model:swapped", { name, path, previousPath });
    }
    return before;
  }

  #served(): readonly ServedEngine[] {
    return [...[...this.#entries.values()].flatMap(({ current }) => current ?? []), ...this.#retired];
  }

  #entryFor(asked: string | undefined, about: Asking): ModelEntry {
    const { aliases, defaultModel } = this.#options;
    const shared = this.#share(asked, about);
    const name = shared ?? asked ?? defaultModel;
    if (name === undefined) throw noModelNamed([...this.#entries.keys()]);
    const entry = this.#entries.get(aliases.get(name) ?? name);
    if (entry) return entry;
    if (shared !== undefined) throw badShare(new Error(`\`share\` named \`${shared}\`, which is not served`));
    throw unknownModel(name);
  }

  #share(asked: string | undefined, about: Asking): string | undefined {
    try {
      return this.#options.share?.(asked, about);
    } catch (cause) {
      throw badShare(cause);
    }
  }
}

function isEngine(source: Engine | PromiseLike<Engine>): source is Engine {
  return typeof source === "object" && source !== null && "generate" in source;
}

/** Waits for a promise, but no longer than `ms`. */
async function within(ms: number, promise: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<void>((resolve) => (timer = setTimeout(resolve, ms)));
  await Promise.race([promise, timeout]).finally(() => clearTimeout(timer));
}

/** Routes whose answers show that an engine can generate. */
const GENERATING = new Set(["/v1/chat/completions", "/v1/completions"]);

/**
 * Middleware in front of the API that reports how requests end: to the models that answered them, and as
 * `request:failed` where the server is to blame.
 */
export function reportOutcomes(models: ServedModels, events: ReadMeEmitter): RequestHandler {
  return (request, response, next) => {
    response.once("close", () => report(models, events, request, response));
    next();
  };
}

function report(models: ServedModels, events: ReadMeEmitter, request: Request, response: Response): void {
  const readMe = knownLocals(response);
  const error = readMe?.error;
  const lease = models.leaseOf(request);
  if (error === undefined) {
    if (isAnswer(request, response)) lease?.ended();
    return;
  }
  const { status } = asApiError(error);
  if (outcomeKind(error) === "fault" || status === 500) {
    const { requestId = "" } = readMe ?? {};
    events.emit("request:failed", { requestId, model: lease?.name, status, causes: faultChain(error) });
  }
  // After the event: this failure may be the one that makes the engine count as failing.
  lease?.ended(error);
}

/** Whether the response is a complete generated answer that was sent. */
function isAnswer(request: Request, response: Response): boolean {
  const route: { readonly path?: unknown } | undefined = request.route;
  const isGenerating = typeof route?.path === "string" && GENERATING.has(route.path);
  return isGenerating && response.statusCode === 200 && response.writableFinished;
}
