// Engines that can be opened again, and ended first where they run and do not work.

import type { Engine } from "@readme-moe/core";

export interface Restartable extends Engine {
  restart(): Promise<void>;
}

export function isRestartable(engine: Engine): engine is Restartable {
  return "restart" in engine && typeof engine.restart === "function";
}

interface Endable extends Restartable {
  /** Ends an engine that runs, which tells `engine:failed` then. */
  kill(): void;
}

export function canBeEnded(engine: Engine): engine is Endable {
  return isRestartable(engine) && "kill" in engine && typeof engine.kill === "function";
}

const underway = new WeakMap<Engine, Promise<void>>();

/** Opens an engine again. Names that share an engine share the attempt, and need none where another one's has succeeded. */
export function reopen(engine: Restartable): Promise<void> {
  const known = underway.get(engine);
  if (known) return known;
  const attempt = open(engine).finally(() => underway.delete(engine));
  underway.set(engine, attempt);
  return attempt;
}

async function open(engine: Restartable): Promise<void> {
  try {
    await engine.restart();
  } catch (error) {
    // What an engine says that works already.
    if (!(error instanceof TypeError)) throw error;
    await engine.stats().catch(() => {
      throw error;
    });
  }
}
