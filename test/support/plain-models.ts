// The models of a server as plain lists: engines that work, fail and are opened again, and the names that they serve.

import { ReadMeError, type Engine } from "@readme-moe/core";

export const RESTART = { firstDelayMs: 100, maxDelayMs: 300, maxAttempts: 3, settledMs: 500, jitter: 0 } as const;
export const MAX_FAILURES = 2;

/** An engine that works, has failed, or is disposed. */
export class FakeEngine {
  readonly info: object;
  isUp = true;
  isDisposed = false;
  canRestart = true;
  #fail!: (error: Error) => void;
  #failed = this.#newLife();

  readonly path: string;

  constructor(path: string) {
    this.path = path;
    this.info = { path, expertKind: "ffn", experts: [], hasRouter: false };
  }

  /** The same engine, as the product knows it. */
  get engine(): Engine {
    return this as unknown as Engine;
  }

  #newLife(): Promise<Error> {
    return new Promise((resolve) => (this.#fail = resolve));
  }

  generate(): void {
    throw new Error("Not part of the test");
  }

  whenFailed(): Promise<Error> {
    return this.#failed;
  }

  async stats(): Promise<object> {
    return {};
  }

  crash(): void {
    this.isUp = false;
    this.#fail(new ReadMeError("ERR_ENGINE_FAILED", "The worker ended"));
  }

  async restart(): Promise<void> {
    if (this.isUp) throw new TypeError("The engine works");
    if (!this.canRestart) throw new ReadMeError("ERR_MODEL_INVALID", "It is gone");
    this.isUp = true;
    this.#failed = this.#newLife();
  }

  async dispose(): Promise<void> {
    this.isDisposed = true;
  }
}

/** An engine under a name, and the number of requests that have it. */
export interface PlainUse {
  readonly fake: FakeEngine;
  readonly model: PlainModel;
  leases: number;
}

interface PlainModel {
  readonly name: string;
  use?: PlainUse;
  state: string;
  code: string | undefined;
  attempts: number;
  succeededMs: number;
  /** When it is opened again. */
  dueMs: number;
  failedMs: number;
  failures: number;
  countsFromMs: number;
  failingSinceMs: number | undefined;
}

const now = (): number => performance.now();

/** The models of a server as one would write them down: all that follows from an operation happens at once. */
export class PlainModels {
  readonly models = new Map<string, PlainModel>();
  readonly events: unknown[] = [];
  readonly disposed = new Set<FakeEngine>();
  readonly #isRestarting: boolean;
  /** Engines that have failed and were not opened again. */
  readonly down = new Set<FakeEngine>();
  #retired: { readonly use: PlainUse; readonly isDisposing: boolean; readonly dueMs: number }[] = [];
  drain: { readonly uses: readonly PlainUse[]; readonly dueMs: number; numEnded?: number } | undefined;

  constructor(isRestarting: boolean) {
    this.#isRestarting = isRestarting;
  }

  get uses(): readonly PlainUse[] {
    return [...[...this.models.values()].flatMap(({ use }) => use ?? []), ...this.#retired.map(({ use }) => use)];
  }

  get numLeases(): number {
    return this.uses.reduce((sum, { leases }) => sum + leases, 0);
  }

  get nextDueMs(): number {
    const times = [...this.models.values(), ...this.#retired].map(({ dueMs }) => dueMs);
    return Math.min(...times, this.drain?.numEnded === undefined ? (this.drain?.dueMs ?? Infinity) : Infinity);
  }

  modelOf(name: string): PlainModel {
    const none = { attempts: 0, succeededMs: Infinity, dueMs: Infinity, failedMs: 0, failures: 0, countsFromMs: 0 };
    const model = this.models.get(name) ?? {
      name,
      state: "loading",
      code: undefined,
      ...none,
      failingSinceMs: undefined,
    };
    this.models.set(name, model);
    return model;
  }

  serve(name: string, fake: FakeEngine, isDisposing: boolean, drainMs = Infinity): void {
    const model = this.modelOf(name);
    const before = model.use;
    if (before?.fake === fake) return;
    model.use = { fake, model, leases: 0 };
    Object.assign(model, { attempts: 0, succeededMs: Infinity });
    this.#opened(model);
    if (before) {
      this.events.push(["model:swapped", name, fake.path, before.fake.path]);
      this.#retired.push({ use: before, isDisposing, dueMs: now() + drainMs });
    }
    if (this.down.has(fake)) this.#failed(model);
    this.settle();
  }

  crash(fake: FakeEngine): void {
    this.down.add(fake);
    for (const model of this.models.values()) {
      if (!this.drain && model.use?.fake === fake && /ready|failing/.test(model.state)) this.#failed(model);
    }
  }

  fail(model: PlainModel, code?: string): void {
    Object.assign(model, { state: "failed", code, dueMs: Infinity });
    this.events.push(["engine:given-up", model.name, model.attempts]);
  }

  /** Counts the end of a request of an engine, where it still serves the name. */
  ended({ fake, model }: PlainUse, startedMs: number, kind: "answer" | "fault" | "neither"): void {
    if (model.use?.fake !== fake || !/ready|failing/.test(model.state) || kind === "neither") return;
    if (kind === "answer") Object.assign(model, { failures: 0, failingSinceMs: undefined });
    else if (startedMs >= model.countsFromMs) {
      Object.assign(model, { failures: model.failures + 1, countsFromMs: now() });
      model.failingSinceMs ??= now();
    }
    const isFailing = model.failures >= MAX_FAILURES;
    if (isFailing === (model.state === "failing")) return;
    Object.assign(model, { state: isFailing ? "failing" : "ready", code: undefined });
    this.events.push(isFailing ? ["engine:failing", model.name, model.failures] : ["engine:recovered", model.name]);
  }

  beginDrain(deadlineMs: number): void {
    this.drain ??= { uses: this.uses, dueMs: now() + deadlineMs };
    for (const model of this.models.values()) model.dueMs = Infinity;
    this.settle();
  }

  /** Lets happen what is due now. */
  settle(): void {
    const due = [...this.models.values()].filter(({ dueMs }) => dueMs <= now());
    // Names that share an engine share the attempt.
    for (const { use } of due) if (use?.fake.canRestart) this.down.delete(use.fake);
    for (const model of due) {
      if (model.use && this.down.has(model.use.fake)) this.#plan(model, "ERR_MODEL_INVALID", true);
      else {
        model.succeededMs = now();
        this.#opened(model);
        this.events.push(["engine:restarted", model.name, model.attempts]);
      }
    }
    for (const one of this.#retired) {
      if (one.use.leases > 0 && now() < one.dueMs) continue;
      const isUsed = this.uses.some((other) => other !== one.use && other.fake === one.use.fake);
      if (one.isDisposing && !isUsed) this.disposed.add(one.use.fake);
      this.#retired = this.#retired.filter((other) => other !== one);
    }
    const { drain } = this;
    if (!drain || drain.numEnded !== undefined) return;
    if (now() < drain.dueMs && drain.uses.some(({ leases }) => leases > 0)) return;
    drain.numEnded = this.numLeases;
    for (const { fake } of drain.uses) this.disposed.add(fake);
  }

  #opened(model: PlainModel): void {
    const fresh = { state: "ready", code: undefined, dueMs: Infinity, failures: 0, failingSinceMs: undefined };
    Object.assign(model, fresh, { countsFromMs: now() });
  }

  #failed(model: PlainModel): void {
    model.failedMs = model.failingSinceMs ?? now();
    this.#plan(model, "ERR_ENGINE_FAILED");
  }

  #plan(model: PlainModel, code: string, isAgain = false): void {
    const { attempts, succeededMs, failedMs, name } = model;
    const before = failedMs - succeededMs >= RESTART.settledMs ? 0 : attempts;
    const isOver = !this.#isRestarting || before >= RESTART.maxAttempts;
    const delayMs = Math.min(RESTART.maxDelayMs, RESTART.firstDelayMs * 2 ** before);
    if (isAgain) this.events.push(["engine:restart-failed", name, attempts, isOver ? undefined : delayMs]);
    if (isOver) this.fail(model, code);
    else
      Object.assign(model, {
        state: "restarting",
        code,
        attempts: before + 1,
        succeededMs: Infinity,
        dueMs: now() + delayMs,
      });
  }
}
