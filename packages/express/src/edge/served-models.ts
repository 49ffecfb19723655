// Finds the engine that answers a request, and counts how requests end for it. An engine can be replaced while it
// serves: new requests go to the new engine, and the old one is disposed when its last request has ended.

import { type Engine, integerOption, MAX_TIMER_MS, type ModelTask, type ReadMeEmitter } from "@readme-moe/core";
import {
  asApiError,
  badRequest,
  badShare,
  modelFailed,
  modelLoading,
  noModelNamed,
  shuttingDown,
  unknownModel,
} from "../http/errors.ts";
import { hostRequest, type Incoming, knownLocals, type Reply, type Step } from "../http/request.ts";
import { within } from "../http/timers.ts";
import {
  aliasesOf,
  idsOfExpert,
  joinExpertId,
  liveExperts,
  type ModelNames,
  namedModel,
  type NamedModel,
  namesModel,
  splitExpertId,
  unknownExpert,
} from "./experts.ts";
import {
  faultChain,
  type Lease,
  type ModelCondition,
  ModelEntry,
  outcomeKind,
  type ServedEngine,
} from "./models/model-entry.ts";
import {
  type Asking,
  type DrainOptions,
  type EnginesByName,
  type ResolvedServedModelsOptions,
  resolveServedModelsOptions,
  type ServedModelsOptions,
  type SwapOptions,
} from "./models/options.ts";

/** A model that requests can name. */
export interface ServedModel {
  readonly name: string;
  readonly engine: Engine;
  /** Time at which this engine took over the name, in ms since 1970. */
  readonly createdMs: number;
  readonly aliases: readonly string[];
  /** Its loras, as far as requests can name them beside the model. */
  readonly experts: readonly ServedExpert[];
}

/** A lora that requests can name. */
export interface ServedExpert {
  readonly name: string;
  /** Names of models that mean this expert: `<model>:<expert>` first. */
  readonly ids: readonly string[];
}

/** Whether a client may name an expert of a model. */
export type MayName = (model: string, expert: string) => boolean;

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
  readonly #leases = new WeakMap<object, Lease>();

  /**
   * @param models - engines by the names that clients use; a promise of an engine counts as loading
   * @throws {TypeError | RangeError} on wrong options
   */
  constructor(models: EnginesByName, options?: ServedModelsOptions);
  /** @param options - of which `share` gets requests of the web */
  constructor(models: EnginesByName, options: ServedModelsOptions<Request>);
  constructor(models: EnginesByName, options: ServedModelsOptions<never> = {}) {
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
    return Array.from(this.#entries.values(), ({ condition }) => condition);
  }

  /** Returns a request's last lease, also after its release. */
  leaseOf(request: object): Lease | undefined {
    return this.#leases.get(request);
  }

  /** Lists the models that are open. */
  list(): readonly ServedModel[] {
    return [...this.#entries.values()].flatMap(({ name, current, createdMs }) => {
      if (!current) return [];
      const { engine } = current;
      const experts = liveExperts(engine)
        .addressable.map((expert) => ({ name: expert, ids: idsOfExpert({ model: name, expert }, this.#names) }))
        .filter(({ ids }) => ids.length > 0);
      return [{ name, engine, createdMs, aliases: aliasesOf(name, this.#names), experts }];
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
   * @param name - a model, an alias, or either with an expert: `<model>:<expert>`
   * @param mayName - tells which experts exist for the client. @default all
   * @throws {ApiError} 404 `model_not_found`; 400 where several models are served and none is named; 503
   * `model_loading`, `model_failed`, `shutting_down`; 500 when `share` fails or names no model
   */
  lease(name: string | undefined, about: Asking<object>, mayName: MayName = () => true): Lease {
    const { model, expert } = this.#namedBy(name, about);
    const served = this.#open(model);
    if (expert !== undefined) {
      const seen = liveExperts(served.engine).addressable.filter((one) => mayName(model, one));
      // An alias must not tell which expert it stands for.
      const isAlias = name !== undefined && this.#options.aliases.get(name) === joinExpertId({ model, expert });
      const names = [...this.#entries.keys()];
      if (!seen.includes(expert)) throw isAlias ? unknownModel(name, names) : unknownExpert({ model, expert }, seen);
    }
    const lease = served.lease(expert);
    this.#leases.set(about.request, lease);
    return lease;
  }

  /**
   * Leases the engine whose experts an operator changes. The expert of the lease need not exist.
   *
   * @param id - `<model>:<expert>`, or an expert of the default model
   * @throws {ApiError} 404 where no model has the name; 400 where it names no expert, or where it names no model and
   * there are several; 503 as `lease`
   */
  leaseForChange(id: string): Lease & { readonly expert: string } {
    const { defaultModel } = this.#options;
    const found = namedModel(id, this.#names);
    const { model, expert } = found ?? { model: defaultModel, expert: id };
    if (found === undefined && splitExpertId(id)) throw unknownModel(id, [...this.#entries.keys()]);
    if (model === undefined) throw noModelNamed([...this.#entries.keys()]);
    if (expert === undefined || idsOfExpert({ model, expert }, this.#names).length === 0) throw namesModel(id);
    return { ...this.#open(model).lease(expert), expert };
  }

  #open(model: string): ServedEngine {
    if (this.#isClosed) throw shuttingDown();
    const entry = this.#entries.get(model);
    if (entry?.state === "failed") throw modelFailed(model);
    // A failing engine still gets requests: an answer shows that it works again.
    const isOpen = entry?.state === "ready" || entry?.state === "failing";
    if (!isOpen || !entry.current) throw modelLoading(model, LOADING_RETRY_MS);
    return entry.current;
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

  get #names(): ModelNames {
    return { aliases: this.#options.aliases, isServed: (name) => this.#entries.has(name) };
  }

  #namedBy(asked: string | undefined, about: Asking<object>): NamedModel {
    if (this.#isClosed) throw shuttingDown();
    const shared = this.#share(asked, about);
    const id = shared ?? asked ?? this.#options.defaultModel;
    if (id === undefined) throw noModelNamed([...this.#entries.keys()]);
    const found = namedModel(id, this.#names);
    if (found) return found;
    if (shared !== undefined) throw badShare(new Error(`\`share\` named \`${shared}\`, which is not served`));
    throw unknownModel(id, [...this.#entries.keys()]);
  }

  #share(asked: string | undefined, about: Asking<object>): string | undefined {
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

/** Names of models that a message lists. */
const MAX_NAMES = 20;

const DOES: Readonly<Record<ModelTask, string>> = {
  generate: "generates text",
  embed: "gives embeddings",
  rerank: "scores documents",
};

/**
 * Checks that a model was made for a request.
 *
 * @param served - all models, of which the message names those that can
 * @throws {ApiError} 400 `model_not_capable`
 */
export function requireTask(
  task: ModelTask,
  { engine, model }: { readonly engine: Engine; readonly model: string },
  served: Pick<ServedModels, "list">,
): void {
  const { task: own } = engine.info;
  if (own === task) return;
  const capable = served.list().flatMap(({ name, engine: { info } }) => (info.task === task ? [`\`${name}\``] : []));
  const more = capable.length > MAX_NAMES ? ` and ${capable.length - MAX_NAMES} more` : "";
  const which =
    capable.length === 0 ? "no served model" : `of the served models ${capable.slice(0, MAX_NAMES).join(", ")}${more}`;
  const message = `The model \`${model.slice(0, 200)}\` ${DOES[own]}; ${which} ${DOES[task]}.`;
  throw badRequest({ message, code: "model_not_capable", param: "model" });
}

/**
 * Middleware in front of the API that reports how requests end: to the models that answered them, and as
 * `request:failed` where the server is to blame.
 */
export function reportOutcomes(models: ServedModels, events: ReadMeEmitter): Step {
  return (request, response, next) => {
    response.once("close", () => report(models, events, request, response));
    next();
  };
}

function report(models: ServedModels, events: ReadMeEmitter, request: Incoming, response: Reply): void {
  const readMe = knownLocals(response);
  const error = readMe?.error;
  const lease = models.leaseOf(hostRequest(request));
  if (error === undefined) {
    // A complete answer that an engine has computed shows that the engine works.
    if (readMe?.runsEngine && response.statusCode === 200 && response.writableFinished) lease?.ended();
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
