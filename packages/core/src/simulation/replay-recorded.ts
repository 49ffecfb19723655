import type { ExpertRun } from "../events.ts";
import { ExpertCache, type ExpertCacheCounters, type ExpertCacheOptions } from "../expert-cache/expert-cache.ts";

/** What the cache of an engine saw in one step; its events tell it. */
export interface RecordedStep {
  /** `expertRuns` of `batch:completed`. */
  readonly runs: readonly ExpertRun[];
  /** Of `batch:scheduled`. */
  readonly laterSteps?: ArrayLike<number> | undefined;
}

/**
 * A cache against what that of an engine saw. The counters are the engine's own, as long as no read failed and the
 * budget stayed.
 *
 * @throws {RangeError} when a layer of a step alone exceeds the budget
 */
export function replayRecorded(steps: readonly RecordedStep[], options: ExpertCacheOptions): ExpertCacheCounters {
  const cache = new ExpertCache(options);
  const everyLayer = (experts: readonly number[]) => options.layout.layerBytes.map(() => experts);
  for (const { runs, laterSteps } of steps) {
    for (const { experts, planned } of runs) {
      const known = { running: everyLayer(experts), planned: everyLayer(planned), laterSteps };
      for (const layer of options.layout.layerBytes.keys()) {
        cache.enterLayer({ ...known, layer });
        cache.allLoaded();
        cache.ran(layer, experts);
      }
    }
  }
  return cache.counters;
}
