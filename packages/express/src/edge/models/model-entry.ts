// One name of a model: the engine that serves it now, its health and state, and the requests that use it.

import {
  type Engine,
  type EngineInfo,
  errorChain,
  type ErrorLink,
  LoadMeter,
  type LoadProgress,
  type MeteredProgress,
  type ReadMeEmitter,
  ReadMeError,
  type ReadMeErrorCode,
} from "@readme-moe/core";
import { ApiError, engineError, reasonOf } from "../../http/errors.ts";
import { ClientGone } from "../../http/request.ts";
import { liveExperts, type LostExpert } from "../experts.ts";
import { type Attempts, nextAttempt, NO_ATTEMPTS, type RestartPolicy } from "./options.ts";

/**
 * End of a request as far as the engine is to blame. A client's mistake or disconnect says nothing about the engine.
 */
export type OutcomeKind = "answer" | "fault" | "neither";

/** End of one request. Times are monotonic, in ms. */
export interface EngineOutcome {
  readonly kind: OutcomeKind;
  /** Time at which the request got the engine. */
  readonly startedMs: number;
  readonly endedMs: number;
}

interface HealthRecord {
  /** Faults in a row without an answer in between. Faults of requests that ran at the same time count once. */
  readonly failures: number;
  /** Faults of requests that began before this time do not count: they repeat a known fault. */
  readonly countsFromMs: number;
  /** Time of the first of `failures`. */
  readonly failingSinceMs: number | undefined;
}

/** Creates the record of an engine that was opened at `nowMs`. */
export function freshRecord(nowMs: number): HealthRecord {
  return { failures: 0, countsFromMs: nowMs, failingSinceMs: undefined };
}

export function afterOutcome(record: HealthRecord, { kind, startedMs, endedMs }: EngineOutcome): HealthRecord {
  if (kind === "answer") return { ...record, failures: 0, failingSinceMs: undefined };
  if (kind === "neither" || startedMs < record.countsFromMs) return record;
  const { failures, failingSinceMs = endedMs } = record;
  return { failures: failures + 1, countsFromMs: endedMs, failingSinceMs };
}

/** @param maxFailures - number of failures from which an engine counts as failing all requests */
export function isFailing({ failures }: HealthRecord, maxFailures: number): boolean {
  return failures >= maxFailures;
}

/** Codes that a working engine reports: the request is impossible, the engine has no room, or it is being disposed. */
const NO_FAULTS: ReadonlySet<ReadMeErrorCode> = new Set([
  "ERR_CONTEXT_LENGTH",
  "ERR_CHAT_TEMPLATE",
  "ERR_QUEUE_FULL",
  "ERR_NO_WORKER",
  "ERR_GRAMMAR_FAILED",
  "ERR_DRAINED",
  "ERR_TAKEN_OVER",
  "ERR_DISPOSED",
]);

/** @param error - the error that a request ended with; `undefined` for a complete answer */
export function outcomeKind(error: unknown): OutcomeKind {
  if (error === undefined) return "answer";
  if (error instanceof ClientGone) return "neither";
  const readMe = readMeErrorOf(error);
  if (readMe) return NO_FAULTS.has(readMe.code) ? "neither" : "fault";
  // A refusal, such as of an overloaded server, is no fault; an unexpected error is.
  return error instanceof ApiError ? "neither" : "fault";
}

/** Finds the first `ReadMeError` of the error and its causes. A caller's function may have thrown any other error. */
function readMeErrorOf(error: unknown): ReadMeError | undefined {
  for (let [next, depth] = [error, 0]; next instanceof Error && depth < 8; [next, depth] = [next.cause, depth + 1]) {
    if (next instanceof ReadMeError) return next;
  }
  return undefined;
}

/** Describes the fault and its causes, without the message that the client got instead. */
export function faultChain(error: unknown): readonly ErrorLink[] {
  return errorChain(readMeErrorOf(error) ?? error);
}

/** States of a model, in the order of its life. */
export const MODEL_STATES = [
  "closed",
  "opening",
  "loading",
  "ready",
  "waiting",
  "failing",
  "restarting",
  "failed",
] as const;

/**
 * State of a model. `closed`: is opened when a request asks for it. `opening`: requests have asked for it, and wait.
 * `loading`: not open yet; its requests are refused. `waiting`: the engine works, and lacks what it would answer with,
 * such as a machine of its fleet. `failing`: the engine runs, and has failed several requests in a row. `restarting`:
 * the engine has failed, and is opened again. `failed`: it could not be opened, or has failed for good.
 */
export type ModelState = (typeof MODEL_STATES)[number];

/** State of a model. */
export interface ModelCondition {
  readonly name: string;
  readonly state: ModelState;
  /** Code of the error that keeps it from being ready. */
  readonly code?: string;
  /** Message of the error that its requests get at this time. */
  readonly message?: string;
  /** Progress of its opening. */
  readonly progress?: MeteredProgress;
}

/** Whether requests may be sent: the model answers, or is opened for them. */
export function canBeAsked({ state, code }: Pick<ModelCondition, "state" | "code">): boolean {
  return state === "ready" || state === "opening" || (state === "closed" && code === undefined);
}

/** Describes a model also by what its engine lacks, although that works. */
function conditionOf(own: ModelCondition, engine: Engine | undefined): ModelCondition {
  const lack = own.state === "ready" ? engine?.unavailable : undefined;
  if (!engine || !lack) return own;
  const shown = engineError(lack, "prompt", engine.info);
  return { ...own, state: "waiting", code: lack.code, ...(shown instanceof ApiError && { message: shown.message }) };
}

/** Use of an engine by one request. */
export interface Lease {
  /** Name of the model that answers. */
  readonly name: string;
  /** Lora that the request's name of the model includes. */
  readonly expert?: string | undefined;
  readonly engine: Engine;
  /** Lets the engine be disposed, as far as this request is concerned. Further calls have no effect. */
  release(): void;
  /**
   * Reports how the request ended, for `/health` and `/readyz`: with an answer (`undefined`) or with an error, which
   * shows whether the client or the engine is to blame. Only the first call counts. The middleware calls it for its
   * requests.
   */
  ended(error?: unknown): void;
}

interface ToldOutcome extends EngineOutcome {
  readonly error: unknown;
}

/** An engine under one name, and the requests that use it. */
export class ServedEngine {
  readonly name: string;
  readonly engine: Engine;
  readonly #onEnded: (outcome: ToldOutcome) => void;
  #numLeases = 0;
  #onIdle: (() => void)[] = [];

  /** @param onEnded - called with the end of each request */
  constructor(name: string, engine: Engine, onEnded: (outcome: ToldOutcome) => void) {
    this.name = name;
    this.engine = engine;
    this.#onEnded = onEnded;
  }

  get numLeases(): number {
    return this.#numLeases;
  }

  lease(expert?: string): Lease {
    const startedMs = performance.now();
    let [isReleased, hasEnded] = [false, false];
    this.#numLeases++;
    const release = (): void => {
      if (isReleased) return;
      isReleased = true;
      if (--this.#numLeases > 0) return;
      for (const resolve of this.#onIdle) resolve();
      this.#onIdle = [];
    };
    const ended = (error?: unknown): void => {
      if (hasEnded) return;
      hasEnded = true;
      this.#onEnded({ kind: outcomeKind(error), startedMs, endedMs: performance.now(), error });
    };
    return { name: this.name, expert, engine: this.engine, release, ended };
  }

  /** Resolves when no request uses the engine. */
  async whenIdle(): Promise<void> {
    if (this.#numLeases > 0) await new Promise<void>((resolve) => this.#onIdle.push(resolve));
  }
}

interface EntryOptions {
  readonly restart: RestartPolicy | undefined;
  readonly maxFailures: number;
  readonly events: ReadMeEmitter;
  /** Takes a model whose engine is given up. @returns whether it is opened again on demand */
  readonly onGivenUp: (name: string, causes: readonly ErrorLink[]) => boolean;
}

export class ModelEntry {
  readonly name: string;
  readonly #options: EntryOptions;
  /** Condition as far as the engine lacks nothing. */
  #condition: ModelCondition;
  #meter = new LoadMeter();
  /** Facts about the model, also while it is not open. */
  #info: Partial<EngineInfo> = {};
  #current: ServedEngine | undefined;
  #attempts: Attempts = NO_ATTEMPTS;
  #record: HealthRecord = freshRecord(0);
  #createdMs = Date.now();
  /**
   * Counts the engines of this name, including the same engine opened again: later news of earlier ones are ignored.
   */
  #generation = 0;
  /** Error for which this entry has killed the engine, if it has. */
  #killedFor: readonly ErrorLink[] | undefined;

  constructor(name: string, options: EntryOptions) {
    this.name = name;
    this.#options = options;
    this.#condition = { name, state: "loading" };
  }

  get state(): ModelState {
    return this.#condition.state;
  }

  get condition(): ModelCondition {
    return conditionOf(this.#condition, this.#current?.engine);
  }

  /** Known facts about the model. */
  get info(): Partial<EngineInfo> {
    return this.#current?.engine.info ?? this.#info;
  }

  /** Progress of opening the model; `undefined` while it is not opened. */
  get progress(): MeteredProgress | undefined {
    return this.#condition.progress;
  }

  get current(): ServedEngine | undefined {
    return this.#current;
  }

  /** Time at which the current engine took over, in ms since 1970. */
  get createdMs(): number {
    return this.#createdMs;
  }

  /** @returns the previous engine, which gets no more requests */
  replace(engine: Engine): ServedEngine | undefined {
    const before = this.#current;
    this.#current = new ServedEngine(this.name, engine, (outcome) => this.#judge(engine, outcome));
    this.#createdMs = Date.now();
    this.#attempts = NO_ATTEMPTS;
    this.#opened(engine);
    return before;
  }

  /** Notes that the model could not be opened. */
  fail(error: unknown): void {
    this.#giveUp(errorChain(error));
  }

  /** Notes how far the opening of the model is. */
  advance(progress: LoadProgress): void {
    if (this.state !== "loading" && this.state !== "opening") return;
    const metered = this.#meter.update(progress, performance.now());
    this.#condition = { ...this.#condition, progress: metered };
    this.#options.events.emit("model:loading", { name: this.name, ...metered });
  }

  /** Notes that requests wait for the model, which is opened. */
  open(): void {
    this.#meter = new LoadMeter();
    this.#enter("opening");
  }

  /**
   * Notes that the model is opened when a request asks for it, or could not be opened.
   *
   * @returns the engine that served it, which gets no more requests
   */
  close({ info, error }: { readonly info?: Partial<EngineInfo>; readonly error?: unknown } = {}): Engine | undefined {
    const engine = this.#current?.engine;
    this.#info = info ?? engine?.info ?? this.#info;
    this.#current = undefined;
    this.retire();
    this.#enter("closed", error === undefined ? [] : errorChain(error));
    if (error !== undefined) this.#condition = { ...this.#condition, message: reasonOf(error) };
    return engine;
  }

  /** Stops watching the engine, and does not open it again. */
  retire(): void {
    this.#generation++;
  }

  #enter(state: ModelState, causes: readonly ErrorLink[] = []): void {
    const code = causes.find((cause) => cause.code !== undefined)?.code;
    this.#condition = { name: this.name, state, ...(code !== undefined && { code }) };
  }

  #opened(engine: Engine): void {
    const generation = ++this.#generation;
    this.#killedFor = undefined;
    this.#record = freshRecord(performance.now());
    this.#enter("ready");
    const isCurrent = (): boolean => this.#generation === generation;
    void engine.whenFailed().then((error) => (isCurrent() ? this.#revive(engine, errorChain(error)) : undefined));
  }

  #giveUp(causes: readonly ErrorLink[]): void {
    if (this.#options.onGivenUp(this.name, causes)) return;
    this.#enter("failed", causes);
    const event = { name: this.name, attempts: this.#attempts.count, causes };
    // After `engine:failed` of the engine itself.
    queueMicrotask(() => this.#options.events.emit("engine:given-up", event));
  }

  /** Counts the end of a request. Kills an engine that fails one request after the other, if it can be opened again. */
  #judge(engine: Engine, outcome: ToldOutcome): void {
    const { restart, maxFailures, events } = this.#options;
    if (this.#current?.engine !== engine || (this.state !== "ready" && this.state !== "failing")) return;
    this.#record = afterOutcome(this.#record, outcome);
    const [was, is] = [this.state === "failing", isFailing(this.#record, maxFailures)];
    if (was && !is) {
      this.#enter("ready");
      events.emit("engine:recovered", { name: this.name, from: "failing" });
    }
    if (was || !is) return;
    const causes = faultChain(outcome.error);
    this.#enter("failing", causes);
    // A restart does not help against an error from elsewhere, such as from a caller's function.
    const isReopened = restart !== undefined && readMeErrorOf(outcome.error) !== undefined && canBeKilled(engine);
    events.emit("engine:failing", { name: this.name, failures: this.#record.failures, isReopened, causes });
    if (!isReopened) return;
    this.#killedFor = causes;
    this.#enter("restarting", causes);
    engine.kill();
  }

  /** Opens the engine again until it works, the policy gives up, or another engine has replaced it. */
  async #revive(engine: Engine, why: readonly ErrorLink[]): Promise<void> {
    const { restart: policy, events } = this.#options;
    const { name } = this;
    const failedMs = this.#record.failingSinceMs ?? performance.now();
    const generation = this.#generation;
    const isWanted = (): boolean => this.#generation === generation;
    let causes = this.#killedFor ?? why;
    this.#killedFor = undefined;
    for (let isFirst = true; ; isFirst = false) {
      const next = policy && isRestartable(engine) ? nextAttempt(policy, this.#attempts, failedMs) : undefined;
      if (!isFirst) {
        const attempts = this.#attempts.count;
        events.emit("engine:restart-failed", { name, attempts, retryInMs: next?.delayMs, causes });
      }
      if (!next || !isRestartable(engine)) {
        this.#giveUp(causes);
        return;
      }
      this.#enter("restarting", causes);
      this.#attempts = { count: next.count, succeededMs: undefined };
      await unreferencedDelay(next.delayMs);
      if (!isWanted()) return;
      // The lease keeps the engine from being disposed while it is being opened.
      const lease = this.#current?.lease();
      const failure = await reopen(engine).then(
        (lost) => void lost.map((one) => events.emit("expert:lost", { name, ...one })),
        (error: unknown) => errorChain(error),
      );
      lease?.release();
      if (!isWanted()) return;
      if (failure) {
        causes = failure;
        continue;
      }
      this.#attempts = { count: next.count, succeededMs: performance.now() };
      this.#opened(engine);
      events.emit("engine:restarted", { name, attempts: next.count });
      return;
    }
  }
}

interface Restartable extends Engine {
  restart(): Promise<void>;
}

function isRestartable(engine: Engine): engine is Restartable {
  return "restart" in engine && typeof engine.restart === "function";
}

function canBeKilled(engine: Engine): engine is Restartable & { kill(): void } {
  return isRestartable(engine) && "kill" in engine && typeof engine.kill === "function";
}

const attemptsUnderWay = new WeakMap<Engine, Promise<readonly LostExpert[]>>();

/**
 * Opens an engine again, with the experts that were loaded into it. Names that share an engine share the attempt and
 * its success.
 *
 * @returns the experts that could not be loaded again
 */
function reopen(engine: Restartable): Promise<readonly LostExpert[]> {
  const known = attemptsUnderWay.get(engine);
  if (known) return known;
  const attempt = openAgain(engine).finally(() => attemptsUnderWay.delete(engine));
  attemptsUnderWay.set(engine, attempt);
  return attempt;
}

async function openAgain(engine: Restartable): Promise<readonly LostExpert[]> {
  try {
    await engine.restart();
  } catch (error) {
    // An engine that works already throws a TypeError.
    if (!(error instanceof TypeError)) throw error;
    await engine.stats().catch(() => {
      throw error;
    });
  }
  return liveExperts(engine).restore();
}

function unreferencedDelay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms).unref());
}
