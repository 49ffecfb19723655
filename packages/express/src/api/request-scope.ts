// One object for the life of a request: what it holds from its checked body to the end of its answer.

import { type Engine, isTraceparent, type ModelTask } from "@readme-moe/core";
import { type Asker, Grammars, type GrammarsOptions } from "@readme-moe/grammar";
import type { Admission } from "../edge/admission.ts";
import type { Entrant, Ticket } from "../edge/admission/limits.ts";
import { joinExpertId, type MayName, type ResolvedExpertsOptions } from "../edge/experts.ts";
import type { Lease } from "../edge/models/model-entry.ts";
import type { ServedModels } from "../edge/served-models.ts";
import { badRequest, listNames } from "../http/errors.ts";
import {
  bodyBytesOf,
  clientName,
  hostRequest,
  type Incoming,
  localsOf,
  type Paces,
  type Reply,
  type RequestLocals,
} from "../http/request.ts";
import type { RequestContext, ResolvedApiOptions } from "./options.ts";

/** Options and services that all routes of the API share. */
export interface Serving extends ResolvedApiOptions {
  readonly models: ServedModels;
  readonly admission: Admission;
  readonly grammars: EngineGrammars;
  readonly experts: ResolvedExpertsOptions;
  readonly paces: Paces;
}

/**
 * Cost of a request for the server.
 * - `engine`: a place in admission, with the tokens of its prompts and of its answer; the answer shows that the engine
 *   works
 * - `texts`: a place in admission without tokens
 * - `answer`: room for its answer while it is sent
 * - `none`
 */
type Cost = "engine" | "texts" | "answer" | "none";

/** Facts of a route that its requests are treated by. */
export interface RouteFacts {
  readonly cost: Cost;
  /** Task that a model has to be made for. @default any */
  readonly task?: ModelTask | undefined;
}

/** Facts of a route whose requests `onRequest` sees. */
export interface EngineRouteFacts extends RouteFacts {
  readonly path: RequestContext["endpoint"];
  readonly cost: "engine";
  readonly task: ModelTask;
}

/** Request and services that a route's handler gets. */
export interface RequestParts<Facts extends RouteFacts = RouteFacts> {
  readonly serving: Serving;
  readonly request: Incoming;
  readonly response: Reply;
  readonly route: Facts;
}

export interface ScopeParts<Body> extends RequestParts {
  /** The checked body. */
  readonly body: Body;
  /** Aborts when the client has left. */
  readonly signal: AbortSignal;
  /** Time for which the model stays open after its last request, where it is opened on demand. @default as before */
  readonly keepAliveMs?: number | undefined;
}

/**
 * A request under way. It holds the leased engine, the place in admission and the use of the engine's grammars, and
 * `RequestScope.run` releases them together.
 */
export class RequestScope<Body extends { readonly model?: string | null | undefined } = object> {
  readonly serving: Serving;
  readonly response: Reply;
  readonly body: Body;
  readonly locals: RequestLocals;
  /** Name of the client, for fair shares. */
  readonly client: string;
  /** Keeps apart what the engine caches, see `ApiOptions.cacheSharing`. */
  readonly cacheSalt: string | undefined;
  /** Trace and span that the engine's work belongs to. */
  readonly traceparent: string | undefined;
  /** Size of the body. */
  readonly bodyBytes: number;
  /** Tells which experts exist for the client. */
  readonly mayName: MayName;
  readonly #route: RouteFacts;
  readonly #lease: Lease;
  readonly #grammarUse: GrammarUse;
  readonly #clientSignal: AbortSignal;
  #ticket: Ticket | undefined;

  private constructor(
    { serving, request, response, route, body, signal }: ScopeParts<Body>,
    lease: Lease,
    mayName: MayName,
  ) {
    this.serving = serving;
    this.#route = route;
    this.response = response;
    this.body = body;
    this.locals = localsOf(response);
    this.client = clientName(request, response);
    const { cacheSharing = this.locals.key === undefined ? "all" : "client" } = serving;
    this.cacheSalt = cacheSharing === "all" ? undefined : this.client;
    const traceparent = serving.traceparent?.(hostRequest(request)) ?? this.locals.traceparent;
    this.traceparent = traceparent !== undefined && isTraceparent(traceparent) ? traceparent : undefined;
    this.bodyBytes = bodyBytesOf(request, response);
    this.#clientSignal = signal;
    this.mayName = mayName;
    this.#lease = lease;
    this.#grammarUse = serving.grammars.use(this.#lease.engine);
  }

  /**
   * Leases the engine that the body names, which may have to be opened first, runs `answer`, and releases everything
   * that the scope holds.
   *
   * @throws {ApiError} as `ServedModels.lease`, for a model that was not made for the route's task, and as `answer`
   */
  static async run<Body extends { readonly model?: string | null | undefined }, Result>(
    parts: ScopeParts<Body>,
    answer: (scope: RequestScope<Body>) => Promise<Result>,
  ): Promise<Result> {
    const { serving, request, response, body, signal, keepAliveMs } = parts;
    const { key } = localsOf(response);
    const mayName: MayName = (model, expert) => serving.experts.permit({ key, model, expert });
    const asking = { request: hostRequest(request), body };
    const lease = await serving.models.acquire(body.model ?? undefined, asking, {
      mayName,
      signal,
      keepAliveMs,
      task: parts.route.task,
    });
    const scope = new RequestScope(parts, lease, mayName);
    try {
      if (parts.route.task) requireTask(parts.route.task, scope, parts.serving.models);
      return await answer(scope);
    } finally {
      scope.#ticket?.release();
      scope.#lease.release();
      scope.#grammarUse.release();
    }
  }

  get engine(): Engine {
    return this.#lease.engine;
  }

  /** Name of the served model, without an expert. */
  get servedName(): string {
    return this.#lease.name;
  }

  /** Lora that the name of the model includes. */
  get namedExpert(): string | undefined {
    return this.#lease.expert;
  }

  /** Name of the model as clients know it, with the expert that they have named in it. */
  get model(): string {
    const { servedName: model, namedExpert: expert } = this;
    return expert === undefined ? model : joinExpertId({ model, expert });
  }

  /** Aborts when the client has left and, after `enter`, when admission ends the request. */
  get signal(): AbortSignal {
    return this.#ticket?.signal ?? this.#clientSignal;
  }

  /** The place in admission. @throws {TypeError} before `enter` */
  get ticket(): Ticket {
    if (!this.#ticket) throw new TypeError("Expected the scope to have entered admission");
    return this.#ticket;
  }

  /** Client and signal that grammars are compiled for. */
  get grammarClient(): Asker {
    return { client: this.client, signal: this.signal };
  }

  /**
   * Takes a place in admission, and gives back the room that was reserved for the arriving body.
   *
   * @throws {ApiError} as `Admission.enter`
   */
  enter(demand: Pick<Entrant, "maxCompletionTokens" | "choices" | "priority"> & Partial<Entrant>): void {
    const isGeneration = this.#route.cost === "engine";
    const { locals, client, bodyBytes: bytes, servedName: model } = this;
    locals.endArrival?.();
    const entrant = { bytes, key: locals.key, client, signal: this.#clientSignal, model, isGeneration, ...demand };
    this.#ticket = this.serving.admission.enter(entrant);
    locals.runsEngine = isGeneration;
  }

  /** Returns the engine's grammars. @throws as `GrammarUse.grammars` */
  grammars(): Promise<Grammars> {
    return this.#grammarUse.grammars(this.signal);
  }
}

const DOES: Readonly<Record<ModelTask, string>> = {
  generate: "generates text",
  embed: "gives embeddings",
  rerank: "scores documents",
  classify: "gives labels",
};

/**
 * Checks that a model was made for a request.
 *
 * @param served - all models, of which the message names those that can
 * @throws {ApiError} 400 `model_not_capable`
 */
function requireTask(
  task: ModelTask,
  { engine, model }: { readonly engine: Engine; readonly model: string },
  served: Pick<ServedModels, "listAll">,
): void {
  const { task: own } = engine.info;
  if (own === task) return;
  const capable = served.listAll().flatMap(({ name, info }) => (info.task === task ? [name] : []));
  const which = capable.length === 0 ? "no served model" : `of the served models ${listNames(capable)}`;
  const message = `The model ${listNames([model])} ${DOES[own]}; ${which} ${DOES[task]}.`;
  throw badRequest({ message, code: "model_not_capable", param: "model" });
}

/** One request's use of an engine's grammars. */
export interface GrammarUse {
  /** Opens the grammars on first use. @throws {TypeError} when the model has no end token; the signal's reason */
  grammars(signal?: AbortSignal): Promise<Grammars>;
  release(): void;
}

interface GrammarEntry {
  grammars: Promise<Grammars> | undefined;
  numUses: number;
}

/** Grammars of the served engines. Disposes them when their engine is no longer served and no request uses them. */
export class EngineGrammars {
  readonly #models: Pick<ServedModels, "list">;
  readonly #options: GrammarsOptions;
  readonly #entries = new Map<Engine, GrammarEntry>();

  constructor(models: Pick<ServedModels, "list">, options: GrammarsOptions = {}) {
    this.#models = models;
    this.#options = options;
  }

  use(engine: Engine): GrammarUse {
    const entry = this.#entries.get(engine) ?? { grammars: undefined, numUses: 0 };
    this.#entries.set(engine, entry);
    entry.numUses++;
    return {
      grammars: (signal) => unlessAborted((entry.grammars ??= this.#open(engine, entry)), signal),
      release: () => {
        entry.numUses--;
        this.#sweep();
      },
    };
  }

  async #open(engine: Engine, entry: GrammarEntry): Promise<Grammars> {
    try {
      return await Grammars.open(engine, this.#options);
    } catch (error) {
      // The next request tries again.
      entry.grammars = undefined;
      throw error;
    }
  }

  #sweep(): void {
    const served = new Set(this.#models.list().map(({ engine }) => engine));
    for (const [engine, { numUses, grammars }] of this.#entries) {
      if (numUses > 0 || served.has(engine)) continue;
      this.#entries.delete(engine);
      grammars?.then((opened) => opened.dispose()).catch(() => undefined);
    }
  }
}

/** Rejects with the signal's reason when it aborts. `work` itself continues, since other requests share it. */
function unlessAborted<Result>(work: Promise<Result>, signal: AbortSignal | undefined): Promise<Result> {
  if (!signal) return work;
  return new Promise((resolve, reject) => {
    // oxlint-disable-next-line prefer-promise-reject-errors -- a signal's reason can be anything
    const onAbort = (): void => reject(signal.reason);
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    void work.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}
