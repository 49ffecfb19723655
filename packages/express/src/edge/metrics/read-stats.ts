// The engines' own numbers, read for a scrape: once for all metrics, and without waiting for an engine that is dead or
// in a long step.

import type { EngineStats } from "@readme-moe/core";
import type { ServedModel, ServedModels } from "../served-models.ts";

export interface NamedStats {
  readonly name: string;
  readonly stats: EngineStats;
}

/** Scrapers give up after ten seconds. */
const PATIENCE_MS = 2000;

/** @returns a function that reads the stats of all engines that answer */
export function statsReader(models: ServedModels): () => Promise<readonly NamedStats[]> {
  const last = new WeakMap<object, EngineStats>();
  let reading: Promise<readonly NamedStats[]> | undefined;

  const readOne = async ({ name, engine }: ServedModel): Promise<readonly NamedStats[]> => {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<undefined>((resolve) => (timer = setTimeout(() => resolve(undefined), PATIENCE_MS)));
    try {
      // One in a long step keeps its numbers; they change when it ends.
      const stats = (await Promise.race([engine.stats(), late])) ?? last.get(engine);
      if (!stats) return [];
      last.set(engine, stats);
      return [{ name, stats }];
    } catch {
      // It failed: it has no numbers, and `up` says why.
      return [];
    } finally {
      clearTimeout(timer);
    }
  };
  const readAll = async (): Promise<readonly NamedStats[]> => (await Promise.all(models.list().map(readOne))).flat();

  // All metrics of a scrape ask before the first is answered.
  return () => (reading ??= readAll().finally(() => (reading = undefined)));
}
