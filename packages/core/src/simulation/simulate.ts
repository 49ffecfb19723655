// A server without a model: a scheduler and an expert cache run a trace, on a clock of given costs.

import { inEveryLayer } from "../expert-cache/cached-units.ts";
import { ExpertCache, type ExpertCacheCounters, type ExpertCacheOptions } from "../expert-cache/expert-cache.ts";
import { forecastNextStep, includePrefetched } from "../expert-cache/next-step.ts";
import { integerOption } from "../options.ts";
import { DEFAULT_COST_MODEL, predictStepMs, type CostModel } from "../scheduling/cost-model.ts";
import type {
  SchedulableSequence,
  ScheduledSequence,
  Scheduler,
  SchedulerLimits,
  SchedulerState,
} from "../scheduling/scheduler.ts";
import { cacheBounds, hitRatio, type CacheBounds } from "./replay.ts";
import { StepClock } from "./step-clock.ts";
import { distinctExperts, type ExpertTrace, type TraceSequence, type TraceStep } from "./trace.ts";

/** Options of `simulate`. */
export interface SimulationOptions {
  readonly scheduler: Scheduler;
  readonly limits: SchedulerLimits;
  /** Largest number of sequences that hold KV memory; the others wait in order of arrival. @default 32 */
  readonly maxNumSeqs?: number | undefined;
  readonly cache: Omit<ExpertCacheOptions, "layout">;
  /** Costs of steps, which the scheduler knows too. @default DEFAULT_COST_MODEL */
  readonly cost?: CostModel | undefined;
  /** Whether layers run while units are read. @default true */
  readonly overlapsReads?: boolean | undefined;
}

/** Mean and percentile of a list of numbers. */
export interface Spread {
  readonly mean: number;
  /** 95th percentile: the smallest number that at least 95 % of the numbers do not exceed (nearest rank). */
  readonly p95: number;
}

/** Result of a simulation. Ratios from 0 to 1, times in ms by the cost model. */
export interface SimulationResult extends ExpertCacheCounters {
  readonly hitRatio: number;
  readonly bounds: CacheBounds;
  /** The steps that ran; they may be added to a trace. */
  readonly steps: readonly TraceStep[];
  /** Mean over steps. */
  readonly meanDistinctExperts: number;
  /** Time from the first step to the end of the last; steps without sequences take no time. */
  readonly durationMs: number;
  /** Part of `durationMs` in which no layer ran because units were missing. */
  readonly stallMs: number;
  /** Latency of sequences, from arrival to the last token. */
  readonly latencyMs: Spread;
  /** Latency of sequences, divided by their output tokens. */
  readonly normalizedLatencyMs: Spread;
}

/**
 * Runs a trace to its end. Deterministic if scheduler and policy are.
 *
 * A sequence arrives at the beginning of its step. The cache knows what an engine's cache knows: the running step, the
 * tokens of the next step that already exist, and estimates of later steps.
 *
 * @throws {RangeError} if the scheduler breaks its contract, or one layer of a step exceeds the budget
 */
export function simulate(trace: ExpertTrace, options: SimulationOptions): SimulationResult {
  const { scheduler, limits, maxNumSeqs = 32, cost = DEFAULT_COST_MODEL, overlapsReads = true } = options;
  const { layout } = trace;
  const { numExperts } = layout;
  integerOption("maxNumSeqs", maxNumSeqs, 1);
  const cache = new ExpertCache({ ...options.cache, layout });
  const clock = new StepClock(cache, layout, { cost, overlapsReads });
  const arrivals = Array.from(trace.sequences.entries());
  const waiting: SimulatedSequence[] = [];
  const running = new Map<string, SimulatedSequence>();
  const steps: TraceStep[] = [];
  const latencies: number[] = [];
  const normalized: number[] = [];
  let forecastIds: readonly string[] = [];

  for (let step = 0; arrivals.length + waiting.length + running.size > 0; step++) {
    if (waiting.length + running.size === 0) step = Math.max(step, arrivals[0]?.[1].arrivalStep ?? 0);
    const firstLater = arrivals.findIndex(([, { arrivalStep }]) => arrivalStep > step);
    for (const [place, sequence] of arrivals.splice(0, firstLater < 0 ? arrivals.length : firstLater)) {
      waiting.push(new SimulatedSequence(sequence, place, clock.nowMs));
    }
    for (const sequence of waiting.splice(0, maxNumSeqs - running.size)) {
      sequence.waitingSinceMs = clock.nowMs;
      running.set(sequence.id, sequence);
    }
    const missingBytes = cache.missingBytes();
    const sequences = Array.from(running.values());
    const state: SchedulerState = { sequences, nowMs: clock.nowMs, limits, cost, missingBytes };
    const prefetched = { experts: cache.prefetchedExperts(), sequences: forecastIds };
    const scheduled = includePrefetched(checkScheduled(scheduler(state), state), state, prefetched);
    const runningTokens = new Map(scheduled.map(({ id, numTokens }) => [id, numTokens]));
    const batch = sequences.filter(({ id }) => runningTokens.has(id));
    const tokensPerExpert = Array.from({ length: numExperts }, () => 0);
    for (const { id, nextExperts } of batch) {
      for (const expert of nextExperts.slice(0, runningTokens.get(id))) {
        tokensPerExpert[expert] = (tokensPerExpert[expert] ?? 0) + 1;
      }
    }
    const experts = distinctExperts({ tokensPerExpert });
    const work = {
      tokens: sumOf(tokensPerExpert),
      distinctExperts: experts.length,
      cachedTokens: sumOf(batch.map(({ numComputedTokens }) => numComputedTokens)),
      missingBytes: sumOf(experts.map((expert) => missingBytes[expert] ?? 0)),
    };
    const stepMs = predictStepMs(cost, work);
    const nextStep = forecastNextStep({ state, runningTokens, stepMs, scheduler, waiting, numExperts });
    forecastIds = nextStep.sequences;
    const upcoming = { planned: inEveryLayer(layout, nextStep.planned), laterSteps: nextStep.laterSteps };
    clock.runStep(inEveryLayer(layout, experts), work, upcoming);
    steps.push({ step, tokensPerExpert });

    for (const { id } of scheduled) {
      const sequence = running.get(id);
      sequence?.advance(runningTokens.get(id) ?? 0, clock.nowMs);
      if (!sequence?.isFinished) continue;
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

/** Rejects a schedule that would never end the simulation, or that runs tokens that do not exist. */
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

/** A running sequence of a trace. Its tokens become known one by one, as if an engine sampled them. */
class SimulatedSequence implements SchedulableSequence {
  readonly id: string;
  readonly arrival: number;
  readonly arrivalMs: number;
  readonly priority = 0;
  readonly outputTokens: number;
  waitingSinceMs = 0;
  readonly #experts: readonly number[];
  readonly #promptTokens: number;
  #numOutputs = 0;
  #numComputedTokens = 0;

  constructor({ id, experts, promptTokens }: TraceSequence, arrival: number, arrivalMs: number) {
    this.id = id;
    this.arrival = arrival;
    this.arrivalMs = arrivalMs;
    this.outputTokens = experts.length - promptTokens + 1;
    this.#experts = experts;
    this.#promptTokens = promptTokens;
  }

  get numTokens(): number {
    return this.#promptTokens + this.#numOutputs;
  }

  get numComputedTokens(): number {
    return this.#numComputedTokens;
  }

  get completionTokens(): number {
    return this.#numOutputs;
  }

  get nextExperts(): readonly number[] {
    return this.#experts.slice(this.#numComputedTokens, this.numTokens);
  }

  get isFinished(): boolean {
    return this.#numOutputs === this.outputTokens;
  }

  /** Counts tokens that have run until `nowMs`; after the last known token there is a new one. */
  advance(numTokens: number, nowMs: number): void {
    this.waitingSinceMs = nowMs;
    this.#numComputedTokens += numTokens;
    if (this.#numComputedTokens === this.numTokens) this.#numOutputs++;
  }
}

/** @returns zeros if there are no numbers */
function spreadOf(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  return { mean: meanOf(values), p95: sorted[Math.ceil(0.95 * sorted.length) - 1] ?? 0 };
}

/** @returns 0 if there are no numbers */
function meanOf(values: readonly number[]): number {
  return values.length === 0 ? 0 : sumOf(values) / values.length;
}

function sumOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0);
}
