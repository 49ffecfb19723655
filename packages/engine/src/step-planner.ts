// Which sequences run in the next step, and what the engine learns from a step.

import {
  chargeClients,
  DEFAULT_COST_MODEL,
  fairlyRunnable,
  forecastNextStep,
  includePrefetched,
  NO_TIMES,
  predictStepMs,
  refineCostModel,
  type ClientTimes,
  type CostModel,
  type ExpertRun,
  type Residency,
  type Scheduler,
  type SchedulerLimits,
  type SchedulerState,
  type StepWork,
} from "@readme-moe/core";
import { batchItems, workOf, type BatchItem } from "./batch.ts";
import type { Sequence } from "./sequence.ts";

/** Measurements of a step that has run. */
export interface CompletedStep {
  readonly tokens: number;
  readonly prefillTokens: number;
  readonly durationMs: number;
  /** Prediction of `durationMs`. */
  readonly predictedMs: number;
  /** Runs through all layers, if experts are streamed. */
  readonly expertRuns?: readonly ExpertRun[];
}

/** Expert uses after a step, as the expert cache is told; empty if all experts are in memory. */
export interface ForecastUses {
  readonly plannedExperts?: readonly number[];
  readonly laterSteps?: readonly number[];
}

// Waiting sequences behind this many say little about when an expert is needed, and cost time in each step.
const MAX_WAITING = 32;

/** Asks the scheduler, with everything that it depends on, and learns the costs of steps from those that have run. */
export class StepPlanner {
  #scheduler: Scheduler;
  readonly #limits: SchedulerLimits;
  readonly #residency: Residency;
  #cost: CostModel;
  #ready: readonly Sequence[] = [];
  /** Ready sequences of clients whose turn it is; input of the scheduler. */
  #candidates: readonly Sequence[] = [];
  #state: SchedulerState | undefined;
  #batch: readonly BatchItem[] = [];
  #clientTimes: ClientTimes = NO_TIMES;
  /** Sequences of the forecast of the next step, which experts were read ahead for. */
  #forecastIds: readonly string[] = [];
  #work: StepWork = { tokens: 0, distinctExperts: 0, cachedTokens: 0, missingBytes: 0 };

  constructor(
    scheduler: Scheduler,
    limits: SchedulerLimits,
    residency: Residency,
    cost: CostModel = DEFAULT_COST_MODEL,
  ) {
    this.#scheduler = scheduler;
    this.#limits = limits;
    this.#residency = residency;
    this.#cost = cost;
  }

  /** Coefficients of a step's predicted time, as far as they are learned. */
  get cost(): CostModel {
    return this.#cost;
  }

  /** Replaces the scheduler, from the next step on. */
  set scheduler(scheduler: Scheduler) {
    this.#scheduler = scheduler;
  }

  /**
   * Selects the sequences that join the next step. If experts are streamed, the step uses those that were read ahead.
   *
   * @param running - sequences that hold KV memory, by id
   * @param ready - those of them that can run
   * @throws {RangeError} if the scheduler breaks its contract
   */
  select(running: ReadonlyMap<string, Sequence>, ready: readonly Sequence[], nowMs: number): readonly BatchItem[] {
    const { missingBytes, streamed } = this.#residency;
    this.#ready = ready;
    this.#candidates = fairlyRunnable(ready, this.#clientTimes, this.#cost);
    const sequences = this.#candidates;
    this.#state = { sequences, nowMs, limits: this.#limits, cost: this.#cost, missingBytes };
    const scheduled = this.#scheduler(this.#state);
    const batch = batchItems(scheduled, running);
    if (!streamed) return batch;
    const prefetched = { experts: streamed.prefetchedExperts, sequences: this.#forecastIds };
    const adjusted = includePrefetched(scheduled, this.#state, prefetched);
    return adjusted === scheduled ? batch : batchItems(adjusted, running);
  }

  /**
   * Begins a step: charges its clients, and tells streamed experts what follows.
   * @param waiting - sequences that wait for KV memory, in order
   */
  begin(batch: readonly BatchItem[], waiting: readonly Sequence[]): ForecastUses {
    const { missingBytes, streamed } = this.#residency;
    this.#batch = batch;
    this.#clientTimes = chargeClients(this.#clientTimes, this.#ready, batch, this.#cost);
    this.#work = workOf(batch, missingBytes);
    if (!streamed || !this.#state) return {};
    // Sequences that were preempted for this step wait now.
    const sequences = this.#candidates.filter(({ slot, nextExperts }) => slot && nextExperts.length > 0);
    const next = forecastNextStep({
      state: { ...this.#state, sequences },
      runningTokens: new Map(batch.map(({ sequence, numTokens }) => [sequence.id, numTokens])),
      stepMs: predictStepMs(this.#cost, this.#work),
      scheduler: this.#scheduler,
      waiting: waiting.slice(0, MAX_WAITING),
      numExperts: streamed.numExperts,
    });
    this.#forecastIds = next.sequences;
    streamed.prepare(next);
    return { plannedExperts: next.planned, laterSteps: Array.from(next.laterSteps) };
  }

  /** Ends the step that was begun: refines the predicted costs. Its sequences wait from now on. */
  complete(startMs: number, nowMs: number): CompletedStep {
    const durationMs = nowMs - startMs;
    const predictedMs = predictStepMs(this.#cost, this.#work);
    this.#cost = refineCostModel(this.#cost, { work: this.#work, durationMs });
    for (const { sequence } of this.#batch) sequence.waitingSinceMs = nowMs;
    const prefillTokens = this.#batch.reduce((sum, { numTokens }) => sum + (numTokens > 1 ? numTokens : 0), 0);
    const step = { tokens: this.#work.tokens, prefillTokens, durationMs, predictedMs };
    const { streamed } = this.#residency;
    return streamed ? { ...step, expertRuns: streamed.takeRuns() } : step;
  }
}
