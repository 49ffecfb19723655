// Caches replayed against recorded or given uses, without a model and without time.

import {
  type ExpertRun,
  inEveryLayer,
  unitBytes,
  unitIndex,
  type ExpertLayout,
  type ExpertUnit,
  chooseVictims,
  evictionCandidates,
  type EvictionPolicy,
  ExpertCache,
  type ExpertCacheCounters,
  type ExpertCacheOptions,
  resolveEvictionPolicy,
  uniformAt,
  type TraceStep,
} from "@readme-moe/core";
import { shuffled } from "../random.ts";
import { distinctExperts } from "./read-trace.ts";

/** One step's input of an engine's expert cache, as its events report it. */
export interface RecordedStep {
  /** `expertRuns` of `batch:completed`. */
  readonly runs: readonly ExpertRun[];
  /** `laterSteps` of `batch:scheduled`. */
  readonly laterSteps?: ArrayLike<number> | undefined;
}

/**
 * Replays the recorded input of an engine's expert cache. The counters equal the engine's own if no read failed and
 * the budget did not change.
 *
 * @throws {RangeError} if one layer of a step exceeds the budget
 */
export function replayRecorded(steps: readonly RecordedStep[], options: ExpertCacheOptions): ExpertCacheCounters {
  const cache = new ExpertCache(options);
  const { layout } = options;
  for (const { runs, laterSteps } of steps) {
    for (const { experts, planned } of runs) {
      const uses = { running: inEveryLayer(layout, experts), planned: inEveryLayer(layout, planned), laterSteps };
      for (const layer of layout.layerBytes.keys()) {
        cache.enterLayer({ ...uses, layer });
        cache.ran(layer, experts);
      }
    }
  }
  return cache.counters;
}

/**
 * Replays given steps. At each layer the rest of the step and the whole next step are known, and reads take no time.
 * With `belady` and no lookahead this is the best result for a horizon of one step.
 *
 * @throws {RangeError} if one layer of a step exceeds the budget
 */
export function replaySteps(
  steps: readonly Pick<TraceStep, "tokensPerExpert">[],
  options: ExpertCacheOptions,
): ExpertCacheCounters {
  const cache = new ExpertCache(options);
  const uses = steps.map((step) => inEveryLayer(options.layout, distinctExperts(step)));
  for (const [at, running] of uses.entries()) {
    for (const [layer, experts] of running.entries()) {
      cache.enterLayer({ layer, running, planned: uses[at + 1] });
      cache.ran(layer, experts);
    }
  }
  return cache.counters;
}

/** Hit ratios of caches with more knowledge, on the same steps. From 0 to 1. */
export interface CacheBounds {
  /** Hit ratio of Belady with the rest of the step and the whole next step known, reading on demand. */
  readonly horizonHitRatio: number;
  /**
   * Hit ratio of Belady with all uses known, unit by unit. With units of one size no cache has a higher one; with
   * several sizes one might, because the best choice is then a packing problem.
   */
  readonly beladyHitRatio: number;
}

/**
 * Computes the hit ratios that two caches with more knowledge would have had within `budgetBytes`. Pure.
 * @throws {RangeError} if one layer of a step exceeds the budget
 */
export function cacheBounds(steps: readonly TraceStep[], layout: ExpertLayout, budgetBytes: number): CacheBounds {
  const horizon = replaySteps(steps, { layout, budgetBytes, policy: "belady", lookaheadLayers: 0 });
  const full = replayUnits(unitRequests(steps, layout), layout, budgetBytes, resolveEvictionPolicy("belady", 0));
  return { horizonHitRatio: hitRatio(horizon), beladyHitRatio: hitRatio(full) };
}

/** Lists the units of steps in the order in which they run: layer by layer, and within a layer by expert. */
export function unitRequests(steps: readonly TraceStep[], { layerBytes }: ExpertLayout): readonly ExpertUnit[] {
  return steps.flatMap((step) => {
    const experts = distinctExperts(step);
    return layerBytes.flatMap((_, layer) => experts.map((expert) => ({ layer, expert })));
  });
}

/** Divides hits by uses; 0 if nothing was used. */
export function hitRatio({ hits, uses }: { readonly hits: number; readonly uses: number }): number {
  return uses === 0 ? 0 : hits / uses;
}

/**
 * Replays a cache of whole experts for one layer, expert by expert in an order drawn for each step, as caches of
 * mixtures of experts are usually measured (Read-ME, table 4). No other layer shares the cache, so there is no cycle
 * of layers.
 *
 * @param capacity - number of experts, from 1 up
 * @param seed - seed of the order, in [0, 2^53)
 */
export function replayLayer(
  steps: readonly TraceStep[],
  capacity: number,
  policy: EvictionPolicy,
  seed: number,
): UnitReplay {
  const requests = steps.flatMap((step, place) =>
    shuffled(distinctExperts(step), (last) => uniformAt(seed, place, last)).map((expert) => ({ layer: 0, expert })),
  );
  const numExperts = steps[0]?.tokensPerExpert.length ?? 1;
  return replayUnits(requests, { numExperts, layerBytes: [1] }, capacity, policy);
}

/** Result of a replay: units requested, hits among them, and bytes read for the others. */
export interface UnitReplay {
  readonly uses: number;
  readonly hits: number;
  readonly bytesRead: number;
}

/** Requests come one by one, so each counts as one layer and there is no longer cycle. */
const EACH_REQUEST = { layer: 0, numLayers: 1 };

/**
 * Replays a cache of which one unit after the other is requested, and read if it is not in memory. The policy knows
 * all later requests. Pure.
 *
 * @param requests - units in the order in which they are requested
 * @throws {RangeError} if one of them alone exceeds `budgetBytes`
 */
export function replayUnits(
  requests: readonly ExpertUnit[],
  layout: ExpertLayout,
  budgetBytes: number,
  policy: EvictionPolicy,
): UnitReplay {
  const indexes = requests.map((unit) => unitIndex(unit, layout));
  const following = nextRequests(indexes);
  const numUnits = layout.numExperts * layout.layerBytes.length;
  const nextRequest = new Float64Array(numUnits).fill(Infinity);
  const lastUses = new Float64Array(numUnits).fill(-1);
  const numUses = new Uint32Array(numUnits);
  const cached = new Map<number, ExpertUnit>();
  let freeBytes = budgetBytes;
  let [hits, bytesRead, numEvictions] = [0, 0, 0];
  for (const [at, unit] of requests.entries()) {
    const index = indexes[at] ?? 0;
    const bytes = unitBytes(unit, layout);
    if (bytes > budgetBytes) {
      throw new RangeError(
        `Expected \`budgetBytes\` to be at least ${bytes}, the size of a unit, got \`${budgetBytes}\``,
      );
    }
    if (cached.has(index)) hits++;
    else {
      if (bytes > freeBytes) {
        const candidates = evictionCandidates({
          units: Array.from(cached.values()),
          layout,
          past: { numLayersRun: at, lastUses, numUses },
          nextUses: nextRequest.map((request) => request - at),
          cycle: EACH_REQUEST,
        });
        const search = { candidates, missingBytes: bytes - freeBytes, policy, firstDecision: numEvictions };
        const victims = chooseVictims(search) ?? [];
        for (const victim of victims) {
          cached.delete(unitIndex(victim, layout));
          freeBytes += victim.bytes;
        }
        numEvictions += victims.length;
      }
      freeBytes -= bytes;
      bytesRead += bytes;
      cached.set(index, unit);
    }
    nextRequest[index] = following[at] ?? Infinity;
    lastUses[index] = at;
    numUses[index] = (numUses[index] ?? 0) + 1;
  }
  return { uses: requests.length, hits, bytesRead };
}

/** Finds for each request the next request of the same unit; `Infinity` if there is none. */
function nextRequests(indexes: readonly number[]): readonly number[] {
  const seen = new Map<number, number>();
  const following = indexes.map(() => Infinity);
  for (let at = indexes.length - 1; at >= 0; at--) {
    const index = indexes[at] ?? 0;
    following[at] = seen.get(index) ?? Infinity;
    seen.set(index, at);
  }
  return following;
}
