// Whether engines still answer. An engine answers late during a long step, so what counts is how long an answer is
// overdue.

import type { Engine, EngineStats, ReadMeEmitter } from "@readme-moe/core";

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

/** Asks an engine for its numbers. @returns nothing if it does not answer in time; rejects if it has failed */
export async function statsWithin(engine: Pick<Engine, "stats">, timeoutMs: number): Promise<EngineStats | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<undefined>((resolve) => (timer = setTimeout(resolve, timeoutMs, undefined)));
  return Promise.race([engine.stats(), late]).finally(() => clearTimeout(timer));
}
