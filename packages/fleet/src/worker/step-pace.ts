// Pace of a worker's steps and jobs, from counters that are read once a second.

import { DEFAULT_COST_MODEL, type CostModel } from "@readme-moe/core";

const MEMORY = 0.7;

/** Means over recent time. */
export class StepPace {
  readonly cost: CostModel = DEFAULT_COST_MODEL;
  /** Mean time of a step while jobs run; 0 before the first. */
  stepMs = 0;
  /** Mean steps of a job; 0 before the first has ended. */
  stepsPerSeq = 0;
  #last: { readonly steps: number; readonly atMs: number; readonly numRunning: number } | undefined;

  /** @param steps - steps since the engine was opened. @param numRunning - jobs that run now */
  observe(steps: number, numRunning: number, atMs: number): void {
    const last = this.#last;
    this.#last = { steps, atMs, numRunning };
    if (!last || last.numRunning === 0 || numRunning === 0 || steps <= last.steps) return;
    const stepMs = (atMs - last.atMs) / (steps - last.steps);
    this.stepMs = this.stepMs === 0 ? stepMs : MEMORY * this.stepMs + (1 - MEMORY) * stepMs;
  }

  /** @param tokens - tokens of each choice of a job that has ended, at most */
  ended(tokens: number): void {
    this.stepsPerSeq = this.stepsPerSeq === 0 ? tokens : MEMORY * this.stepsPerSeq + (1 - MEMORY) * tokens;
  }
}
