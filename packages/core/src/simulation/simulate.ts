// A server without a model: a scheduler and an expert cache against a trace, on a clock of given costs.

import type { ExpertCacheCounters, ExpertCacheOptions } from "../expert-cache/expert-cache.ts";
import { ExpertCache } from "../expert-cache/expert-cache.ts";
import { keepAwaited } from "../expert-cache/keep-awaited.ts";
import { upcomingUses } from "../expert-cache/upcoming-uses.ts";
import { integerOption } from "../options.ts";
import { DEFAULT_COST_MODEL, predictStepMs, type CostModel } from "../scheduling/cost-model.ts";
import type { ScheduledSequence, Scheduler, SchedulerLimits, SchedulerState } from "../scheduling/scheduler.ts";
import { cacheBounds, hitRatio, type CacheBounds } from "./cache-bounds.ts";
import { SimulatedSequence } from "./simulated-sequence.ts";
import { meanOf, spreadOf, sumOf, type Spread } from "./statistics.ts";
import { StepClock } from "./step-clock.ts";
import { distinctExperts, type ExpertTrace, type TraceStep } from "./trace.ts";

/** Of `simulate`: the scheduler and the cache under test, their limits, and what steps cost. */
export interface SimulationOptions {
  readonly scheduler: Scheduler;
  readonly limits: SchedulerLimits;
  /** Sequences that hold KV memory; the others wait in order of arrival. @default 32 */
  readonly maxNumSeqs?: number | undefined;
  readonly cache: Omit<ExpertCacheOptions, "layout">;
  /** What steps take, and what the scheduler believes that they take. @default DEFAULT_COST_MODEL */
  readonly cost?: CostModel | undefined;
  /** Whether layers run while units are read. @default true */
  readonly overlapsReads?: boolean | undefined;
}

/** What scheduler and cache made of a trace. Ratios from 0 to 1, times in ms by the cost model. */
export interface SimulationResult extends ExpertCacheCounters {
  readonly hitRatio: number;
  readonly bounds: CacheBounds;
  /** What ran; a trace may take these. */
  readonly steps: readonly TraceStep[];
  /** Mean over steps. */
  readonly meanDistinctExperts: number;
  /** From the first step to the end of the last; steps without sequences take no time. */
  readonly durationMs: number;
  /** Of it, when nothing ran because units were missing. */
  readonly stallMs: number;
  /** Over sequences, from arrival to the last token. */
  readonly latencyMs: Spread;
  /** Over sequences, latency by output token. */
  readonly normalizedLatencyMs: Spread;
}

/**
 * Runs a trace to its end. Deterministic where scheduler and policy are.
 *
 * A sequence arrives at the beginning of its step. The cache knows what an engine knows: the step that runs, those
 * tokens of the next that exist already, and estimates beyond.
 *
 * @throws {RangeError} when the scheduler breaks its contract, or a layer of a step alone exceeds the budget
 */
export function simulate(trace: ExpertTrace, options: SimulationOptions): SimulationResult {
  const { scheduler, limits, maxNumSeqs = 32, cost = DEFAULT_COST_MODEL, overlapsReads = true } = options;
  const { layout } = trace;
  integerOption("maxNumSeqs", maxNumSeqs, 1);
  const cache = new ExpertCache({ ...options.cache, layout });
  const clock = new StepClock(cache, layout, { cost, overlapsReads });
  const arrivals = [...trace.sequences];
  const waiting: SimulatedSequence[] = [];
  const running = new Map<string, SimulatedSequence>();
  const steps: TraceStep[] = [];
  const latencies: number[] = [];
  const normalized: number[] = [];
  let plannedIds: readonly string[] = [];

  for (let step = 0; arrivals.length + waiting.length + running.size > 0; step++) {
    if (waiting.length + running.size === 0) step = Math.max(step, arrivals[0]?.arrivalStep ?? 0);
    while (arrivals[0] && arrivals[0].arrivalStep <= step) {
      const place = trace.sequences.length - arrivals.length;
      waiting.push(new SimulatedSequence(arrivals.shift() as ExpertTrace["sequences"][number], place, clock.nowMs));
    }
    for (const sequence of waiting.splice(0, maxNumSeqs - running.size)) {
      sequence.waitingSinceMs = clock.nowMs;
      running.set(sequence.id, sequence);
    }
    const { nowMs } = clock;
    const missingBytes = cache.missingBytes();
    const state = { sequences: Array.from(running.values()), nowMs, limits, cost, missingBytes };
    const awaited = { experts: cache.awaitedExperts(), sequences: plannedIds };
    const scheduled = keepAwaited(checkScheduled(scheduler(state), state), state, awaited);
    const tokensPerExpert = countTokens(scheduled, running, layout.numExperts);
    const experts = distinctExperts({ tokensPerExpert });
    const work = {
      tokens: sumOf(tokensPerExpert),
      distinctExperts: experts.length,
      cachedTokens: sumOf(scheduled.map(({ id }) => running.get(id)?.numComputedTokens ?? 0)),
      missingBytes: sumOf(experts.map((expert) => missingBytes[expert] ?? 0)),
    };
    const runningTokens = new Map(scheduled.map(({ id, numTokens }) => [id, numTokens]));
    const stepMs = predictStepMs(cost, work);
    const { numExperts } = layout;
    const upcoming = upcomingUses({ state, runningTokens, stepMs, scheduler, waiting, numExperts });
    plannedIds = upcoming.sequences;
    const everyLayer = (ids: readonly number[]) => layout.layerBytes.map(() => ids);
    clock.runStep(everyLayer(experts), work, { ...upcoming, planned: everyLayer(upcoming.planned) });
    steps.push({ step, tokensPerExpert });

    for (const { id, numTokens: ran } of scheduled) {
      const sequence = running.get(id) as SimulatedSequence;
      sequence.advance(ran, clock.nowMs);
      if (!sequence.isFinished) continue;
      running.delete(id);
      latencies.push(clock.nowMs - sequence.arrivalMs);
      normalized.push((clock.nowMs - sequence.arrivalMs) / sequence.outputTokens);
    }
  }
  return {
    ...cache.counters,
    hitRatio: hitRatio(cache.counters),
    bounds: cacheBounds(steps, layout, options.cache.budgetBytes),
    steps,
    meanDistinctExperts: meanOf(steps.map((step) => distinctExperts(step).length)),
    durationMs: clock.nowMs,
    stallMs: clock.stallMs,
    latencyMs: spreadOf(latencies),
    normalizedLatencyMs: spreadOf(normalized),
  };
}

/** A simulation that goes on for ever, or runs tokens that do not exist, is no use. */
function checkScheduled(scheduled: readonly ScheduledSequence[], state: SchedulerState): readonly ScheduledSequence[] {
  const left = new Map(state.sequences.map((sequence) => [sequence.id, sequence.nextExperts.length]));
  if (scheduled.length === 0) throw new RangeError("Expected the scheduler to choose at least one sequence, got none");
  for (const { id, numTokens } of scheduled) {
    const most = left.get(id);
    if (most === undefined)
      throw new RangeError(`Expected the scheduler to choose sequences of its state once, got \`${id}\``);
    integerOption(`numTokens of ${id}`, numTokens, 1, most);
    left.delete(id);
  }
  return scheduled;
}

function countTokens(
  scheduled: readonly ScheduledSequence[],
  running: ReadonlyMap<string, SimulatedSequence>,
  numExperts: number,
): readonly number[] {
  const counts = Array.from({ length: numExperts }, () => 0);
  for (const { id, numTokens } of scheduled) {
    for (const expert of (running.get(id) as SimulatedSequence).nextExperts.slice(0, numTokens)) {
      counts[expert] = (counts[expert] as number) + 1;
    }
  }
  return counts;
}
