// Finds the engine that answers a request, and counts how requests end for it. An engine can be replaced while it
// serves: new requests go to the new engine, and the old one is disposed when its last request has ended.

import {
  type Engine,
  integerOption,
  loadText,
  MAX_TIMER_MS,
  type ModelTask,
  type ReadMeEmitter,
} from "@readme-moe/core";
import {
  type ApiError,
  asApiError,
  badShare,
  modelFailed,
  modelLoading,
  noModelNamed,
  shuttingDown,
  unknownModel,
} from "../http/errors.ts";
import { hostRequest, type Incoming, knownLocals, type Reply, type Step, within } from "../http/request.ts";
import {
  aliasesOf,
  idsOfExpert,
  joinExpertId,
  liveExperts,
  type MayName,
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
import { OnDemandModels } from "./models/on-demand.ts";
import {
  type AcquireOptions,
  type Asking,
  checkOnDemand,
  type DrainOptions,
  type EnginesByName,
  isOnDemand,
  type ListedModel,
  type ModelOpening,
  type ModelSource,
  type OnDemandModel,
  type ResolvedServedModelsOptions,
  resolveServedModelsOptions,
  type ServedExpert,
  type ServedModel,
  type ServedModelsOptions,
  type SwapOptions,
} from "./models/options.ts";

/** Wait that clients are told while a model loads or restarts, where the time left is unknown. */
const LOADING_RETRY_MS = 5000;
/** Time for which a model with requests keeps its memory at least. Loading another one takes about as long. */
const TURN_MS = 10_000;

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
  /** Models that are opened on demand, by name. */
  readonly #sources = new Map<string, OnDemandModel>();
  readonly #onDemand: OnDemandModels;
  readonly #closing = new AbortController();
  /** Engines that are being closed although the server goes on. */
  readonly #disposals = new Set<Promise<void>>();

  /**
   * @param models - engines by the names that clients use, or how to open them
   * @throws {TypeError | RangeError} on wrong options
   */
  constructor(models: EnginesByName, options?: ServedModelsOptions);
  /** @param options - of which `share` gets requests of the web */
  constructor(models: EnginesByName, options: ServedModelsOptions<Request>);
  constructor(models: EnginesByName, options: ServedModelsOptions<never> = {}) {
    this.#options = resolveServedModelsOptions(options, Object.keys(models));
    const { memoryBytes, events } = this.#options;
    this.#onDemand = new OnDemandModels({
      memoryBytes,
      turnMs: TURN_MS,
      events,
      open: (name) => this.#openOnDemand(name),
      close: (name) => this.#close(name),
    });
    for (const [name, source] of Object.entries(models)) {
      if (isOnDemand(source)) checkOnDemand(name, source, memoryBytes);
    }
    for (const [name, source] of Object.entries(models)) {
      const entry = this.#newEntry(name);
      this.#entries.set(name, entry);
      if (isEngine(source)) this.#serve(entry, source);
      else if (isOnDemand(source)) this.#offer(entry, source);
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

  states(): readonly ModelCondition[] {
    return Array.from(this.#entries.values(), ({ condition }) => condition);
  }

  /** Returns a request's last lease, also after its release. */
  leaseOf(request: object): Lease | undefined {
    return this.#leases.get(request);
  }

  /** Lists the models that are open. */
  list(): readonly ServedModel[] {
    return [...this.#entries.values()].flatMap((entry) => {
      const { name, current, createdMs } = entry;
      if (!current) return [];
      const { engine } = current;
      return [{ name, engine, createdMs, aliases: aliasesOf(name, this.#names), experts: this.#expertsOf(entry) }];
    });
  }

  /** Lists all models, open or not. */
  listAll(): readonly ListedModel[] {
    return Array.from(this.#entries.values(), (entry) => {
      const { name, createdMs, info, current } = entry;
      const more = { experts: this.#expertsOf(entry), isOpen: current !== undefined };
      return { name, createdMs, info, aliases: aliasesOf(name, this.#names), ...more };
    });
  }

  #expertsOf({ name, current }: ModelEntry): readonly ServedExpert[] {
    if (!current) return [];
    return liveExperts(current.engine)
      .addressable.map((expert) => ({ name: expert, ids: idsOfExpert({ model: name, expert }, this.#names) }))
      .filter(({ ids }) => ids.length > 0);
  }

  /** Returns the time until an open model is closed if no request comes, in ms; `Infinity` for never. */
  closesInMs(name: string): number {
    return this.#onDemand.closesInMs(name);
  }

  /**
   * Closes a model with `open` as soon as no request uses it.
   * @param name - as in a request
   * @returns whether it is such a model
   */
  unload(name: string): boolean {
    const model = namedModel(name, this.#names)?.model;
    if (model === undefined || !this.#sources.has(model)) return false;
    this.#onDemand.unload(model);
    return true;
  }

  /** Calls `listener` for each engine that serves now, and for each that will serve later. */
  watch(listener: (name: string, engine: Engine) => void): void {
    this.#watchers.push(listener);
    for (const { name, engine } of this.list()) listener(name, engine);
  }

  /**
   * Leases the engine for a request, which has to release it. A model with `open` that is not open begins to open.
   *
   * @param name - a model, an alias, or either with an expert: `<model>:<expert>`
   * @param mayName - tells which experts exist for the client. @default all
   * @throws {ApiError} 404 `model_not_found`; 400 where several models are served and none is named; 503
   * `model_loading`, `model_failed`, `shutting_down`; 500 when `share` fails or names no model
   */
  lease(name: string | undefined, about: Asking<object>, mayName: MayName = () => true): Lease {
    const named = this.#namedBy(name, about);
    return this.#lease(named, this.#useNow(named.model), { name, about, mayName });
  }

  /**
   * Leases the engine for a request as `lease` does, and waits for a model with `open`.
   *
   * @throws {ApiError} as `lease`
   */
  async acquire(name: string | undefined, about: Asking<object>, options: AcquireOptions = {}): Promise<Lease> {
    const { mayName = () => true, signal, keepAliveMs, task } = options;
    const named = this.#namedBy(name, about, task);
    const isOpened = this.#sources.has(named.model);
    const leave = isOpened ? await this.#onDemand.enter(named.model, signal, keepAliveMs) : () => undefined;
    return this.#lease(named, leave, { name, about, mayName });
  }

  /** Begins to open a model that is opened on demand, and refuses the request. @returns ends its use if it is open */
  #useNow(model: string): () => void {
    if (!this.#sources.has(model)) return () => undefined;
    const leave = this.#onDemand.enterNow(model);
    if (leave) return leave;
    this.#begin(model);
    throw this.#loading(model);
  }

  /** @param leave - ends the request's use of a model that is opened on demand */
  #lease({ model, expert }: NamedModel, leave: () => void, { name, about, mayName }: LeaseParts): Lease {
    try {
      const served = this.#open(model);
      if (expert !== undefined) {
        const seen = liveExperts(served.engine).addressable.filter((one) => mayName(model, one));
        // An alias must not tell which expert it stands for.
        const isAlias = name !== undefined && this.#options.aliases.get(name) === joinExpertId({ model, expert });
        const names = [...this.#entries.keys()];
        if (!seen.includes(expert)) throw isAlias ? unknownModel(name, names) : unknownExpert({ model, expert }, seen);
      }
      const lease = leaving(served.lease(expert), leave);
      this.#leases.set(about.request, lease);
      return lease;
    } catch (error) {
      leave();
      throw error;
    }
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
    const leave = this.#useNow(model);
    return { ...leaving(this.#open(model).lease(expert), leave), expert };
  }

  #open(model: string): ServedEngine {
    if (this.#isClosed) throw shuttingDown();
    const entry = this.#entries.get(model);
    if (entry?.state === "failed") throw modelFailed(model);
    // A failing engine still gets requests: an answer shows that it works again.
    const isOpen = entry?.state === "ready" || entry?.state === "failing";
    if (!isOpen || !entry.current) throw this.#loading(model);
    return entry.current;
  }

  #loading(model: string): ApiError {
    const progress = this.#entries.get(model)?.progress;
    const waitMs = progress?.secondsLeft === undefined ? LOADING_RETRY_MS : 1000 * progress.secondsLeft;
    return modelLoading(model, waitMs, progress && loadText(progress));
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
    const entry = this.#entries.get(name) ?? this.#newEntry(name);
    if (entry.current?.engine === engine) return;
    this.#entries.set(name, entry);
    const before = this.#serve(entry, engine);
    this.#sources.delete(name);
    this.#onDemand.remove(name);
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
    this.#closing.abort(shuttingDown());
    this.#onDemand.stop(shuttingDown());
    for (const entry of this.#entries.values()) entry.retire();
    const served = this.#served();
    await within(deadlineMs, Promise.all(served.map((one) => one.whenIdle())));
    const numEnded = this.numLeases;
    const engines = [...new Set(served.map(({ engine }) => engine))];
    await Promise.all([...this.#disposals, ...engines.map((engine) => engine.dispose())]);
    return numEnded;
  }

  #newEntry(name: string): ModelEntry {
    return new ModelEntry(name, {
      ...this.#options,
      onGivenUp: (model, causes) => this.#onDemand.giveUp(model, causes),
    });
  }

  async #load(entry: ModelEntry, source: Exclude<ModelSource, Engine | OnDemandModel>): Promise<void> {
    try {
      const found = await (typeof source === "function" ? source(this.#openingOf(entry)) : source);
      // Another engine was set meanwhile, or the server has shut down.
      const isLate = this.#isClosed || entry.current !== undefined;
      if (isEngine(found)) {
        if (isLate) await found.dispose();
        else this.#serve(entry, found);
      } else if (!isLate) this.#offer(entry, checkOnDemand(entry.name, found, this.#options.memoryBytes));
    } catch (error) {
      if (!entry.current) entry.fail(error);
    }
  }

  #openingOf(entry: ModelEntry): ModelOpening {
    return { onProgress: (progress) => entry.advance(progress), signal: this.#closing.signal };
  }

  /** Makes a model open when a request asks for it. */
  #offer(entry: ModelEntry, source: OnDemandModel): void {
    this.#sources.set(entry.name, source);
    this.#onDemand.add(entry.name, source.bytes, this.#options.keepAliveMs);
    entry.close({ info: source.info ?? {} });
    if (source.opensAtOnce === true) this.#begin(entry.name);
  }

  /** Opens a model although no request waits for it. */
  #begin(name: string): void {
    void this.#onDemand.enter(name, undefined).then(
      (leave) => leave(),
      () => undefined,
    );
  }

  async #openOnDemand(name: string): Promise<void> {
    const [entry, source] = [this.#entries.get(name), this.#sources.get(name)];
    if (!entry || !source) throw new TypeError(`Expected \`${name}\` to be opened on demand`);
    entry.open();
    try {
      const engine = await source.open(this.#openingOf(entry));
      if (this.#isClosed || entry.current) await engine.dispose();
      else this.#serve(entry, engine);
    } catch (error) {
      if (!entry.current) entry.close({ error });
      throw error;
    }
  }

  async #close(name: string): Promise<void> {
    const closing = this.#entries.get(name)?.close()?.dispose();
    if (!closing) return;
    this.#disposals.add(closing);
    await closing.finally(() => this.#disposals.delete(closing));
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

  #namedBy(asked: string | undefined, about: Asking<object>, task?: ModelTask): NamedModel {
    if (this.#isClosed) throw shuttingDown();
    const shared = this.#share(asked, about);
    const id = shared ?? asked ?? this.#onlyOf(task) ?? this.#options.defaultModel;
    if (id === undefined) throw noModelNamed([...this.#entries.keys()]);
    const found = namedModel(id, this.#names);
    if (found) return found;
    if (shared !== undefined) throw badShare(new Error(`\`share\` named \`${shared}\`, which is not served`));
    throw unknownModel(id, [...this.#entries.keys()]);
  }

  /** Finds the only model of a task. Models that have not been open yet may be of any. */
  #onlyOf(task: ModelTask | undefined): string | undefined {
    const able = [...this.#entries.values()].filter(({ info }) => info.task === undefined || info.task === task);
    const [only] = able;
    return able.length === 1 && only?.info.task === task ? only?.name : undefined;
  }

  #share(asked: string | undefined, about: Asking<object>): string | undefined {
    try {
      return this.#options.share?.(asked, about);
    } catch (cause) {
      throw badShare(cause);
    }
  }
}

/** Parts of a request that a lease depends on. */
interface LeaseParts {
  readonly name: string | undefined;
  readonly about: Asking<object>;
  readonly mayName: MayName;
}

/** Adds to a lease what happens at its release. */
function leaving(lease: Lease, leave: () => void): Lease {
  const release = (): void => {
    lease.release();
    leave();
  };
  return { ...lease, release };
}

function isEngine(source: ModelSource): source is Engine {
  return typeof source === "object" && source !== null && "generate" in source;
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
