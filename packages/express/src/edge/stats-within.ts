// Numbers of an engine that may be busy with a long step.

import type { Engine, EngineStats } from "@readme-moe/core";

/** Asks an engine for its numbers. @returns nothing if it does not answer in time; rejects if it has failed */
export async function statsWithin(engine: Pick<Engine, "stats">, timeoutMs: number): Promise<EngineStats | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<undefined>((resolve) => (timer = setTimeout(resolve, timeoutMs, undefined)));
  return Promise.race([engine.stats(), late]).finally(() => clearTimeout(timer));
}
