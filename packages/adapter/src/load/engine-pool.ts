// Pipelines that load the same model share an engine, so that their calls are batched into the same steps.

import { resolve } from "node:path";
import { ReadMeEngine, type EngineOptions } from "@readme-moe/engine";

interface Shared {
  readonly opening: Promise<ReadMeEngine>;
  numUsers: number;
}

export interface EngineLease {
  readonly engine: ReadMeEngine;
  /** Releases the engine, which is disposed with its last lease. Further calls do nothing. */
  release(): Promise<void>;
}

const pool = new Map<string, Shared>();

/** Opens an engine, or shares an open one with the same options. @throws as `ReadMeEngine.open` */
export async function leaseEngine(path: string, options: EngineOptions): Promise<EngineLease> {
  const key = JSON.stringify([resolve(path), Object.entries(options).sort(([a], [b]) => (a < b ? -1 : 1))]);
  const shared = pool.get(key) ?? { opening: ReadMeEngine.open(path, options), numUsers: 0 };
  pool.set(key, shared);
  const forget = (): void => {
    if (pool.get(key) === shared) pool.delete(key);
  };
  shared.numUsers++;
  let isReleased = false;
  const release = async (): Promise<void> => {
    if (isReleased) return;
    isReleased = true;
    if (--shared.numUsers > 0) return;
    forget();
    const engine = await shared.opening.catch(() => undefined);
    await engine?.dispose();
  };
  try {
    const engine = await shared.opening;
    // Leases of a failed engine keep it; the next lease opens a new one.
    void engine.whenFailed().then(forget);
    return { engine, release };
  } catch (error) {
    await release();
    throw error;
  }
}
