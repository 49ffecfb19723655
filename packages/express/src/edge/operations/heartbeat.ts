// Whether engines still answer. An engine in a long step answers late, so what counts is how long an answer is overdue.

import type { Engine, ReadMeEmitter } from "@readme-moe/core";

interface Served {
  list(): readonly { readonly name: string; readonly engine: Engine }[];
}

interface Overdue {
  readonly name: string;
  readonly overdueMs: number;
}

/** Asks engines as often as somebody wants to know, and never one that owes an answer. */
export class Heartbeat {
  readonly #models: Served;
  readonly #hungMs: number;
  readonly #events: Pick<ReadMeEmitter, "emit">;
  readonly #askedMs = new WeakMap<Engine, number>();
  /** Names that were told to hang. */
  readonly #told = new Map<string, Engine>();

  /** @param events - where `engine:hung` and its end are told */
  constructor(models: Served, hungMs: number, events: Pick<ReadMeEmitter, "emit">) {
    this.#models = models;
    this.#hungMs = hungMs;
    this.#events = events;
  }

  /** Names of models whose engine has not answered for `hungMs`. */
  hungNames(nowMs: number): readonly string[] {
    return this.overdue(nowMs).flatMap(({ name, overdueMs }) => (overdueMs >= this.#hungMs ? [name] : []));
  }

  /** How long each engine owes an answer; 0 for those that owe none. */
  overdue(nowMs: number): readonly Overdue[] {
    const all = this.#models.list().map(({ name, engine }) => ({ name, engine, overdueMs: this.#ask(engine, nowMs) }));
    for (const { name, engine, overdueMs } of all) {
      if (overdueMs < this.#hungMs || this.#told.get(name) === engine) continue;
      this.#told.set(name, engine);
      this.#events.emit("engine:hung", { name, overdueMs });
    }
    return all;
  }

  #ask(engine: Engine, nowMs: number): number {
    const sinceMs = this.#askedMs.get(engine);
    if (sinceMs !== undefined) return nowMs - sinceMs;
    this.#askedMs.set(engine, nowMs);
    const settled = (isAnswer: boolean): void => {
      this.#askedMs.delete(engine);
      for (const [name, of] of this.#told) {
        if (of !== engine) continue;
        this.#told.delete(name);
        if (isAnswer) this.#events.emit("engine:recovered", { name, from: "hung" });
      }
    };
    // One that has failed says so at once; its state tells.
    engine.stats().then(
      () => settled(true),
      () => settled(false),
    );
    return 0;
  }
}
