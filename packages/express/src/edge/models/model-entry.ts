// One name: which engine it stands for now, and how that engine is.

import { errorChain, type Engine, type ErrorLink, type ReadMeEmitter } from "@readme-moe/core";
import { afterOutcome, freshRecord, isFailing, type HealthRecord } from "./engine-health.ts";
import { faultChain, readMeErrorOf } from "./outcome-kind.ts";
import { NO_ATTEMPTS, nextAttempt, type Attempts, type RestartPolicy } from "./restart-policy.ts";
import { canBeEnded, isRestartable, reopen } from "./restartable.ts";
import { ServedEngine, type ToldOutcome } from "./served-engine.ts";

/** All that a model can be, in the order of its life. */
export const MODEL_STATES = ["loading", "ready", "failing", "restarting", "failed"] as const;

/**
 * `loading`: not open yet. `ready`. `failing`: it runs, and has failed one request after the other. `restarting`: it has
 * failed, and is opened again. `failed`: it could not be opened, or has failed and stays so.
 */
export type ModelState = (typeof MODEL_STATES)[number];

interface EntryOptions {
  readonly restart: RestartPolicy | undefined;
  readonly maxFailures: number;
  readonly events: ReadMeEmitter;
}

export class ModelEntry {
  readonly name: string;
  readonly #options: EntryOptions;
  #state: ModelState = "loading";
  #code: string | undefined;
  #current: ServedEngine | undefined;
  #attempts: Attempts = NO_ATTEMPTS;
  #record: HealthRecord = freshRecord(0);
  #createdMs = Date.now();
  #numRevivals = 0;
  /** What the engine was ended for, where it was: that it has ended then is no news. */
  #endedFor: readonly ErrorLink[] | undefined;
  #stopWatching: () => void = () => undefined;

  constructor(name: string, options: EntryOptions) {
    this.name = name;
    this.#options = options;
  }

  get state(): ModelState {
    return this.#state;
  }

  /** Of the error that the model is not ready for, where it has one. */
  get code(): string | undefined {
    return this.#code;
  }

  get current(): ServedEngine | undefined {
    return this.#current;
  }

  /** When the current engine took over, in ms since 1970. */
  get createdMs(): number {
    return this.#createdMs;
  }

  /** @returns the engine of before, which gets no more requests */
  replace(engine: Engine): ServedEngine | undefined {
    const before = this.#current;
    this.retire();
    this.#current = new ServedEngine(this.name, engine, (outcome) => this.#judge(engine, outcome));
    this.#createdMs = Date.now();
    this.#attempts = NO_ATTEMPTS;
    this.#opened();
    const onFailed = ({ code, message, causes }: { code: string; message: string; causes?: readonly ErrorLink[] }) =>
      void this.#revive(engine, causes ?? [{ name: "ReadMeError", code, message }]);
    engine.events.on("engine:failed", onFailed);
    this.#stopWatching = () => engine.events.off("engine:failed", onFailed);
    return before;
  }

  /** It could not be opened. */
  fail(error: unknown): void {
    this.#giveUp(errorChain(error));
  }

  /** No longer watches the engine, nor opens it again. */
  retire(): void {
    this.#numRevivals++;
    this.#stopWatching();
    this.#stopWatching = () => undefined;
  }

  #enter(state: ModelState, causes: readonly ErrorLink[] = []): void {
    this.#state = state;
    this.#code = causes.find(({ code }) => code !== undefined)?.code;
  }

  #opened(): void {
    this.#endedFor = undefined;
    this.#record = freshRecord(performance.now());
    this.#enter("ready");
  }

  #giveUp(causes: readonly ErrorLink[]): void {
    this.#enter("failed", causes);
    const event = { name: this.name, attempts: this.#attempts.count, causes };
    // Whoever else listens for the failure is told of that first.
    queueMicrotask(() => this.#options.events.emit("engine:given-up", event));
  }

  /** Counts the end of a request. An engine that fails one after the other is ended, where it will be opened again. */
  #judge(engine: Engine, outcome: ToldOutcome): void {
    const { restart, maxFailures, events } = this.#options;
    if (this.#current?.engine !== engine || (this.#state !== "ready" && this.#state !== "failing")) return;
    this.#record = afterOutcome(this.#record, outcome);
    const [was, is] = [this.#state === "failing", isFailing(this.#record, maxFailures)];
    if (was && !is) {
      this.#enter("ready");
      events.emit("engine:recovered", { name: this.name, from: "failing" });
    }
    if (was || !is) return;
    const causes = faultChain(outcome.error);
    this.#enter("failing", causes);
    // Opening it again does not help against an error of somebody else, such as a caller's function.
    const isReopened = restart !== undefined && readMeErrorOf(outcome.error) !== undefined && canBeEnded(engine);
    events.emit("engine:failing", { name: this.name, failures: this.#record.failures, isReopened, causes });
    if (!isReopened) return;
    this.#endedFor = causes;
    this.#enter("restarting", causes);
    engine.kill();
  }

  /** Opens the engine again until it works, the policy gives up, or nobody wants it any more. */
  async #revive(engine: Engine, why: readonly ErrorLink[]): Promise<void> {
    const { restart: policy, events } = this.#options;
    const { name } = this;
    const failedMs = this.#record.failingSinceMs ?? performance.now();
    const revival = ++this.#numRevivals;
    const isWanted = (): boolean => this.#current?.engine === engine && this.#numRevivals === revival;
    let causes = this.#endedFor ?? why;
    this.#endedFor = undefined;
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
      await unhurried(next.delayMs);
      if (!isWanted()) return;
      // An engine that is being opened cannot be disposed yet.
      const lease = this.#current?.lease();
      const failure = await reopen(engine).then(
        () => undefined,
        (error: unknown) => errorChain(error),
      );
      lease?.release();
      if (!isWanted()) return;
      if (failure) {
        causes = failure;
        continue;
      }
      this.#attempts = { count: next.count, succeededMs: performance.now() };
      this.#opened();
      events.emit("engine:restarted", { name, attempts: next.count });
      return;
    }
  }
}

/** A wait that does not keep the process alive. */
function unhurried(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms).unref());
}
