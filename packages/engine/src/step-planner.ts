import {
  chargeClients,
  DEFAULT_COST_MODEL,
  fairlyRunnable,
  keepAwaited,
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
  upcomingUses,
} from "@readme-moe/core";
import { batchItems, expertsOf, type BatchItem } from "./batch.ts";
import type { Sequence } from "./sequence.ts";

/** What a step was. */
export interface CompletedStep {
  readonly tokens: number;
  readonly prefillTokens: number;
  readonly durationMs: number;
  /** What `durationMs` was expected to be. */
  readonly predictedMs: number;
  /** Where experts come and go. */
  readonly expertRuns?: readonly ExpertRun[];
}

/** What the expert cache was told of what comes after a step; nothing where all experts are in memory. */
export interface ToldUses {
  readonly plannedExperts?: readonly number[];
  readonly laterSteps?: readonly number[];
}

// Of sequences that wait, those behind so many tell little of when an expert is needed, and cost time in each step.
const MAX_WAITING = 32;

/** Asks the scheduler, with all that it decides on; what steps cost is learnt from those that have run. */
export class StepPlanner {
  #scheduler: Scheduler;
  readonly #limits: SchedulerLimits;
  readonly #residency: Residency;
  #cost: CostModel;
  #state: SchedulerState | undefined;
  #batch: readonly BatchItem[] = [];
  #clientTimes: ClientTimes = NO_TIMES;
  #canRun: readonly Sequence[] = [];
  /** Sequences that the next step was planned with, before it could be chosen. */
  #plannedIds: readonly string[] = [];
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

  /** From the next step on. */
  set scheduler(scheduler: Scheduler) {
    this.#scheduler = scheduler;
  }

  /**
   * Whom of `running` the next step should have. Where experts come and go, what was read ahead for it is used.
   * @throws {RangeError} when the scheduler breaks its contract
   */
  plan(running: ReadonlyMap<string, Sequence>, canRun: readonly Sequence[], nowMs: number): readonly BatchItem[] {
    const { missingBytes, streamed } = this.#residency;
    this.#canRun = canRun;
    const sequences = fairlyRunnable(canRun, this.#clientTimes, this.#cost);
    this.#state = { sequences, nowMs, limits: this.#limits, cost: this.#cost, missingBytes };
    const chosen = this.#scheduler(this.#state);
    const batch = batchItems(chosen, running);
    if (!streamed) return batch;
    const awaited = { experts: streamed.awaitedExperts, sequences: this.#plannedIds };
    const kept = keepAwaited(chosen, this.#state, awaited);
    return kept === chosen ? batch : batchItems(kept, running);
  }

  /**
   * Takes note of what a step is, before it runs, and tells experts that come and go what follows.
   * @param waiting - for KV memory, in order
   */
  begin(batch: readonly BatchItem[], waiting: readonly Sequence[]): ToldUses {
    const { missingBytes } = this.#residency;
    const experts = Array.from(expertsOf(batch));
    this.#batch = batch;
    this.#clientTimes = chargeClients(this.#clientTimes, this.#canRun, batch, this.#cost);
    this.#work = {
      tokens: batch.reduce((sum, { numTokens }) => sum + numTokens, 0),
      distinctExperts: experts.length,
      cachedTokens: batch.reduce((sum, { sequence }) => sum + sequence.numComputedTokens, 0),
      missingBytes: experts.reduce((sum, expert) => sum + (missingBytes[expert] ?? 0), 0),
    };
    return this.#tell(batch, waiting);
  }

  /** The step that was begun has run: learns from it, and those that were in it wait from now on. */
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

  #tell(batch: readonly BatchItem[], waiting: readonly Sequence[]): ToldUses {
    const { streamed } = this.#residency;
    if (!streamed || !this.#state) return {};
    const upcoming = upcomingUses({
      // Who was preempted waits.
      state: { ...this.#state, sequences: this.#state.sequences.filter(isRunning) },
      runningTokens: new Map(batch.map(({ sequence, numTokens }) => [sequence.id, numTokens])),
      stepMs: predictStepMs(this.#cost, this.#work),
      scheduler: this.#scheduler,
      waiting: waiting.slice(0, MAX_WAITING),
      numExperts: streamed.numExperts,
    });
    this.#plannedIds = upcoming.sequences;
    streamed.prepare(upcoming);
    return { plannedExperts: upcoming.planned, laterSteps: Array.from(upcoming.laterSteps) };
  }
}

function isRunning(sequence: SchedulerState["sequences"][number]): boolean {
  return sequence.nextExperts.length > 0 && (sequence as Sequence).slot !== undefined;
}
