// Whether engines still answer. An engine in a long step answers late, so what counts is how long an answer is overdue.

import type { Engine } from "@readme-moe/core";

interface Served {
  list(): readonly { readonly name: string; readonly engine: Engine }[];
}

/** @returns the names of models whose engine has not answered for `hungMs` */
export function heartbeat(models: Served, hungMs: number): (nowMs: number) => readonly string[] {
  const askedMs = new WeakMap<Engine, number>();
  return (nowMs) =>
    models.list().flatMap(({ name, engine }) => {
      const since = askedMs.get(engine);
      if (since !== undefined) return nowMs - since >= hungMs ? [name] : [];
      askedMs.set(engine, nowMs);
      const answered = (): boolean => askedMs.delete(engine);
      // One that has failed says so at once; its state tells.
      engine.stats().then(answered, answered);
      return [];
    });
}
