import {
  DEFAULT_COST_MODEL,
  predictStepMs,
  refineCostModel,
  type CostModel,
  type Residency,
  type Scheduler,
  type SchedulerLimits,
  type StepWork,
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
}

/** Asks the scheduler, with all that it decides on; what steps cost is learnt from those that have run. */
export class StepPlanner {
  readonly #scheduler: Scheduler;
  readonly #limits: SchedulerLimits;
  readonly #residency: Residency;
  #cost: CostModel = DEFAULT_COST_MODEL;
  #batch: readonly BatchItem[] = [];
  #work: StepWork = { tokens: 0, distinctExperts: 0, cachedTokens: 0, missingBytes: 0 };

  constructor(scheduler: Scheduler, limits: SchedulerLimits, residency: Residency) {
    this.#scheduler = scheduler;
    this.#limits = limits;
    this.#residency = residency;
  }

  /**
   * Whom of `running` the next step should have.
   * @throws {RangeError} when the scheduler breaks its contract
   */
  plan(running: ReadonlyMap<string, Sequence>, canRun: readonly Sequence[], nowMs: number): readonly BatchItem[] {
    const { missingBytes } = this.#residency;
    const state = { sequences: canRun, nowMs, limits: this.#limits, cost: this.#cost, missingBytes };
    return batchItems(this.#scheduler(state), running);
  }

  /** Takes note of what a step is, before it runs. */
  begin(batch: readonly BatchItem[]): void {
    const { missingBytes } = this.#residency;
    const experts = Array.from(expertsOf(batch));
    this.#batch = batch;
    this.#work = {
      tokens: batch.reduce((sum, { numTokens }) => sum + numTokens, 0),
      distinctExperts: experts.length,
      cachedTokens: batch.reduce((sum, { sequence }) => sum + sequence.numComputedTokens, 0),
      missingBytes: experts.reduce((sum, expert) => sum + (missingBytes[expert] ?? 0), 0),
    };
  }

  /** The step that was begun has run: learns from it, and those that were in it wait from now on. */
  complete(startMs: number, nowMs: number): CompletedStep {
    const durationMs = nowMs - startMs;
    const predictedMs = predictStepMs(this.#cost, this.#work);
    this.#cost = refineCostModel(this.#cost, { work: this.#work, durationMs });
    for (const { sequence } of this.#batch) sequence.waitingSinceMs = nowMs;
    const prefillTokens = this.#batch.reduce((sum, { numTokens }) => sum + (numTokens > 1 ? numTokens : 0), 0);
    return { tokens: this.#work.tokens, prefillTokens, durationMs, predictedMs };
  }
}
