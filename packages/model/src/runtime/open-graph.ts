import type { BuildProgress } from "../onnx/data-file.ts";
import type { Graph } from "../onnx/graph-builder.ts";
import { cachedGraph } from "./graph-cache.ts";
import { GraphSession } from "./session.ts";

/** Of `openGraph`: where the graph is kept, how it runs, and who hears about it. */
export interface OpenGraphOptions {
  readonly cacheFolder: string;
  readonly threads?: number | undefined;
  readonly onProgress?: ((progress: BuildProgress) => void) | undefined;
  /** The graph is there, the runtime reads it next. */
  readonly onLoading?: (() => void) | undefined;
  /** Told once when the graph stays in memory, with the reason. */
  readonly onCacheFailure?: ((reason: string) => void) | undefined;
}

/**
 * A session of `graph`, through the cache. Keeps no copy of a graph that is in memory: the runtime has its own.
 *
 * @param sourceFingerprint - of everything that the constants' bytes are made from
 * @throws {ReadMeError} `ERR_RUNTIME` when the runtime refuses the graph; as `cachedGraph`
 */
export async function openGraph(
  graph: Graph,
  sourceFingerprint: string,
  options: OpenGraphOptions,
): Promise<GraphSession> {
  const { cacheFolder, threads, onProgress, onLoading, onCacheFailure } = options;
  for (let mayRetry = true; ; mayRetry = false) {
    const cached = await cachedGraph(graph, sourceFingerprint, cacheFolder, onProgress);
    if (cached.kind === "memory") onCacheFailure?.(message(cached.reason));
    onLoading?.();
    try {
      return await GraphSession.load(cached, { threads });
    } catch (error) {
      // An entry may be removed, or replaced, after it was checked and before the runtime has opened it.
      if (cached.kind === "memory" || !mayRetry) throw error;
    }
  }
}

function message(reason: unknown): string {
  return reason instanceof Error ? reason.message : String(reason);
}
