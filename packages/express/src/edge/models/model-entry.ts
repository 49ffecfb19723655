// One name: which engine it stands for now, and how that engine is.

import type { Engine, ReadMeEmitter } from "@readme-moe/core";
import { NO_ATTEMPTS, nextAttempt, type Attempts, type RestartPolicy } from "./restart-policy.ts";
import { ServedEngine } from "./served-engine.ts";

/**
 * `loading`: not open yet. `ready`. `restarting`: it has failed, and is opened again. `failed`: it could not be opened, or
 * has failed and stays so.
 */
export type ModelState = "loading" | "ready" | "restarting" | "failed";

interface Restartable extends Engine {
  restart(): Promise<void>;
}

interface EntryOptions {
  readonly restart: RestartPolicy | undefined;
  readonly events: ReadMeEmitter;
}

export class ModelEntry {
  readonly name: string;
  readonly #options: EntryOptions;
  #state: ModelState = "loading";
  #current: ServedEngine | undefined;
  #attempts: Attempts = NO_ATTEMPTS;
  #createdMs = Date.now();
  #stopWatching: () => void = () => undefined;

  constructor(name: string, options: EntryOptions) {
    this.name = name;
    this.#options = options;
  }

  get state(): ModelState {
    return this.#state;
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
    this.#current = new ServedEngine(this.name, engine);
    this.#createdMs = Date.now();
    this.#attempts = NO_ATTEMPTS;
    this.#state = "ready";
    const onFailed = (): void => void this.#revive(engine);
    engine.events.on("engine:failed", onFailed);
    this.#stopWatching = () => engine.events.off("engine:failed", onFailed);
    return before;
  }

  /** It could not be opened. */
  fail(): void {
    this.#state = "failed";
  }

  /** No longer watches the engine, nor opens it again. */
  retire(): void {
    this.#stopWatching();
    this.#stopWatching = () => undefined;
  }

  /** Opens the engine again until it works, the policy gives up, or nobody wants it any more. */
  async #revive(engine: Engine): Promise<void> {
    const { restart: policy, events } = this.#options;
    const stopWatching = this.#stopWatching;
    const isWanted = (): boolean => this.#current?.engine === engine && this.#stopWatching === stopWatching;
    this.#state = "failed";
    if (!policy || !isRestartable(engine)) return;
    for (;;) {
      const next = nextAttempt(policy, this.#attempts, performance.now());
      if (!next) {
        this.#state = "failed";
        return;
      }
      this.#state = "restarting";
      this.#attempts = { count: next.count, succeededMs: undefined };
      await unhurried(next.delayMs);
      if (!isWanted()) return;
      // An engine that is being opened cannot be disposed yet.
      const lease = this.#current?.lease();
      const isOpen = await engine.restart().then(
        () => true,
        () => false,
      );
      lease?.release();
      if (!isWanted()) return;
      if (!isOpen) continue;
      this.#attempts = { count: next.count, succeededMs: performance.now() };
      this.#state = "ready";
      events.emit("engine:restarted", { name: this.name, attempts: next.count });
      return;
    }
  }
}

function isRestartable(engine: Engine): engine is Restartable {
  return "restart" in engine && typeof engine.restart === "function";
}

/** A wait that does not keep the process alive. */
function unhurried(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms).unref());
}
