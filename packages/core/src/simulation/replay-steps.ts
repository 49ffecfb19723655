import { ExpertCache, type ExpertCacheCounters, type ExpertCacheOptions } from "../expert-cache/expert-cache.ts";
import { distinctExperts, type TraceStep } from "./trace.ts";

/**
 * A cache against steps that are given: at each layer the rest of the step and the whole next one are known, and reads
 * take no time. With `belady` and no lookahead this is the most that a horizon of one step gives.
 *
 * @throws {RangeError} when a layer of a step alone exceeds the budget
 */
export function replaySteps(
  steps: readonly Pick<TraceStep, "tokensPerExpert">[],
  options: ExpertCacheOptions,
): ExpertCacheCounters {
  const cache = new ExpertCache(options);
  const { layerBytes } = options.layout;
  const uses = steps.map((step) => {
    const experts = distinctExperts(step);
    return layerBytes.map(() => experts);
  });
  for (const [at, running] of uses.entries()) {
    for (const [layer, experts] of running.entries()) {
      for (const unit of cache.plan({ layer, running, planned: uses[at + 1] }).load) cache.loaded(unit);
      cache.ran(layer, experts);
    }
  }
  return cache.counters;
}
