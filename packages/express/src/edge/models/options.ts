import {
  type CheckedOptions,
  checkedOptions,
  type Engine,
  type EngineInfo,
  functionOption,
  integerCheck,
  integerOption,
  isRecord,
  type LoadProgress,
  MAX_TIMER_MS,
  type ModelTask,
  numberCheck,
  type OptionChecks,
  ReadMeEmitter,
  rejectUnknownKeys,
} from "@readme-moe/core";
import type { Request as ExpressRequest } from "express";
import { type MayName, namedModel } from "../experts.ts";

/** Hooks of opening a model. They fit into the options of `ReadMeEngine.open`. */
export interface ModelOpening {
  /** Takes the progress that health, errors and logs show. */
  readonly onProgress: (progress: LoadProgress) => void;
  /** Aborts when the server shuts down. */
  readonly signal: AbortSignal;
}

/** A model that is opened when a request asks for it, and closed when its memory is needed or no request comes. */
export interface OnDemandModel {
  readonly open: (opening: ModelOpening) => PromiseLike<Engine>;
  /** Memory that it takes while it is open: weights, keys and values, and what it needs to work. */
  readonly bytes: number;
  /** Facts about it that `/v1/models` and others tell before it is open. @default those of the last engine */
  readonly info?: Partial<EngineInfo> | undefined;
  /** Opens it at once, as if a request had asked for it. @default false */
  readonly opensAtOnce?: boolean | undefined;
}

/** Source of a model. A promise counts as loading; a function is called at once, with hooks for its progress. */
export type ModelSource =
  | Engine
  | OnDemandModel
  | PromiseLike<Engine | OnDemandModel>
  | ((opening: ModelOpening) => PromiseLike<Engine | OnDemandModel>);

/** Engines, or how to open them, by the names that clients use. */
export type EnginesByName = Readonly<Record<string, ModelSource>>;

/** @throws {TypeError | RangeError} on a wrong source of a model that is opened on demand */
export function checkOnDemand(name: string, source: OnDemandModel, memoryBytes: number): OnDemandModel {
  rejectUnknownKeys(`model \`${name}\``, source, ["open", "bytes", "info", "opensAtOnce"]);
  functionOption("open", source.open);
  integerOption("bytes", source.bytes, 0);
  if (source.bytes <= memoryBytes) return source;
  throw new RangeError(
    `Expected \`memoryBytes\` to have room for the model \`${name}\` of ${source.bytes} bytes, got \`${memoryBytes}\``,
  );
}

export function isOnDemand(source: unknown): source is OnDemandModel {
  return isRecord(source) && "open" in source;
}

/** The request that a model is chosen for. */
export interface Asking<HostRequest = ExpressRequest> {
  /** The host's request: Express's, or that of the web. */
  readonly request: HostRequest;
  readonly body: unknown;
}

/**
 * Chooses the model of a request: for a dense and a refactored form side by side, for a share of the traffic, or by
 * tenant. Gets the name that the client sent, with aliases unresolved.
 *
 * @returns the name of a served model, or `<model>:<expert>`, or `undefined` for the one that the client named
 */
export type ShareTraffic<HostRequest = ExpressRequest> = (name: string | undefined, about: Asking<HostRequest>) => string | undefined;

/** Options of `ServedModels`: names of models, and what happens when an engine fails. */
export interface ServedModelsOptions<HostRequest = ExpressRequest> {
  /** Other names of models, `{ alias: name }`, and of their loras, `{ alias: "<name>:<expert>" }`. */
  readonly aliases?: Readonly<Record<string, string>> | undefined;
  /** Model of requests that name none, where several models can serve them. @default the only model, if there is one */
  readonly defaultModel?: string | undefined;
  /** Chooses the model of a request, such as a share of the traffic or a tenant's. @default the named model */
  readonly share?: ShareTraffic<HostRequest> | undefined;
  /** Opens failed engines again, if they have a method `restart`. @default no */
  readonly restart?: boolean | RestartOptions | undefined;
  /**
   * Failed requests in a row, each begun after the one before had failed, from which an engine counts as not ready.
   * With `restart` the engine is opened again then. @default 3
   */
  readonly maxFailures?: number | undefined;
  /**
   * Time without requests after which a model with `open` is closed, in ms; `Infinity` for never. Requests of Ollama's
   * API may say another one. @default 300,000
   */
  readonly keepAliveMs?: number | undefined;
  /**
   * Memory of all models with `open` together. Where a model does not fit beside the others, the one that was not used
   * for longest is closed, and requests wait until it is. @default no limit
   */
  readonly memoryBytes?: number | undefined;
  /** Bus of `model:swapped`, `request:failed` and the events of engines. @default a bus of its own */
  readonly events?: ReadMeEmitter | undefined;
}

/** Waits and attempts of opening a failed engine again. */
export interface RestartOptions {
  /** Wait before the first attempt, in ms. Each further wait is twice as long. @default 1,000 */
  readonly firstDelayMs?: number | undefined;
  /** Longest wait before an attempt, in ms. @default 60,000 */
  readonly maxDelayMs?: number | undefined;
  /** Failed attempts after which the engine counts as failed for good. @default 10 */
  readonly maxAttempts?: number | undefined;
  /** Time that an engine has to work after a restart before waits begin anew, in ms. @default 60,000 */
  readonly settledMs?: number | undefined;
  /**
   * Largest random cut of a wait, as a share from 0 to 1, so that servers that failed together do not restart together.
   * @default 0.25
   */
  readonly jitter?: number | undefined;
  /** Source of randomness for `jitter`, in [0, 1). @default Math.random */
  readonly random?: (() => number) | undefined;
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

const CHECKS = {
  aliases: (aliases: Readonly<Record<string, string>> = {}) => new Map(Object.entries(aliases)),
  defaultModel: (name: string | undefined) => name,
  // The host's hook gets the host's requests.
  share: (share: ShareTraffic<never> | undefined, name: string) =>
    functionOption(name, share) as ShareTraffic<object> | undefined,
  restart: (restart: boolean | RestartOptions = false) =>
    restart === false ? undefined : resolveRestartOptions(restart === true ? {} : restart),
  maxFailures: integerCheck(3, 1),
  keepAliveMs: numberCheck(300_000, 0),
  memoryBytes: numberCheck(Infinity, 0),
  events: (events = new ReadMeEmitter()) => events,
} satisfies OptionChecks<ServedModelsOptions<never>>;

export type ResolvedServedModelsOptions = ReturnType<typeof resolveServedModelsOptions>;

/** @throws {TypeError} naming the option, the expectation and the value */
export function resolveServedModelsOptions(options: ServedModelsOptions<never>, names: readonly string[]) {
  if (names.length === 0) throw new TypeError("Expected `models` to have at least one engine");
  const { aliases, defaultModel, ...others } = checkedOptions(options, CHECKS, "served models");
  const isServed = (name: string): boolean => names.includes(name);
  const checkServed = (option: string, name: string): void => {
    if (!isServed(name)) throw new TypeError(`Expected ${option} to be a model that is served, got \`${name}\``);
  };
  for (const [alias, name] of aliases) {
    checkServed(`alias \`${alias}\``, namedModel(name, { aliases: new Map(), isServed })?.model ?? name);
    if (isServed(alias)) throw new TypeError(`Expected alias \`${alias}\` not to be the name of a model`);
  }
  if (defaultModel !== undefined) checkServed("`defaultModel`", defaultModel);
  return { ...others, aliases, defaultModel: defaultModel ?? (names.length === 1 ? names[0] : undefined) };
}

const RESTART_CHECKS = {
  firstDelayMs: integerCheck(1000, 0, MAX_TIMER_MS),
  maxDelayMs: integerCheck(60_000, 0, MAX_TIMER_MS),
  maxAttempts: integerCheck(10, 1),
  settledMs: integerCheck(60_000, 0),
  jitter: numberCheck(0.25, 0, 1),
  random: (random: () => number = Math.random, name: string) => functionOption(name, random),
} satisfies OptionChecks<RestartOptions>;

export type RestartPolicy = CheckedOptions<typeof RESTART_CHECKS>;

/** @throws {TypeError | RangeError} naming the option, the expectation and the value */
export function resolveRestartOptions(options: RestartOptions): RestartPolicy {
  const policy = checkedOptions(options, RESTART_CHECKS, "`restart`");
  integerOption("maxDelayMs", policy.maxDelayMs, policy.firstDelayMs);
  return policy;
}

/** Attempts to open an engine again. */
export interface Attempts {
  /** Number of attempts since the engine last worked for `settledMs`. */
  readonly count: number;
  /** Time of the last successful attempt. */
  readonly succeededMs: number | undefined;
}

export const NO_ATTEMPTS: Attempts = { count: 0, succeededMs: undefined };

/**
 * Decides whether a failed engine is opened again, and after which wait.
 *
 * @param failedMs - when the engine began to fail
 * @returns `undefined` to give up
 */
export function nextAttempt(
  policy: RestartPolicy,
  { count, succeededMs }: Attempts,
  failedMs: number,
): { readonly count: number; readonly delayMs: number } | undefined {
  const hasSettled = succeededMs !== undefined && failedMs - succeededMs >= policy.settledMs;
  const before = hasSettled ? 0 : count;
  if (before >= policy.maxAttempts) return undefined;
  const wholeMs = Math.min(policy.maxDelayMs, policy.firstDelayMs * 2 ** before);
  return { count: before + 1, delayMs: wholeMs * (1 - policy.jitter * policy.random()) };
}

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

/** A model as lists tell it, open or not. */
export interface ListedModel extends Pick<ServedModel, "name" | "createdMs" | "aliases" | "experts"> {
  /** Known facts about it; all of them while it is open. */
  readonly info: Partial<EngineInfo>;
  readonly isOpen: boolean;
}

/** Options of `ServedModels.acquire`. */
export interface AcquireOptions {
  /** Tells which experts exist for the client. @default all */
  readonly mayName?: MayName | undefined;
  /** Ends the wait; the call rejects with its reason. */
  readonly signal?: AbortSignal | undefined;
  /** Time for which a model with `open` stays open after its last request, from now on, in ms. @default as before */
  readonly keepAliveMs?: number | undefined;
  /** Task of the request. One that names no model goes to the only model of this task. @default any */
  readonly task?: ModelTask | undefined;
}

/** A lora that requests can name. */
export interface ServedExpert {
  readonly name: string;
  /** Names of models that mean this expert: `<model>:<expert>` first. */
  readonly ids: readonly string[];
}
