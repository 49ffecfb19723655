// What an engine's steps cost, learnt from its events.

import { DEFAULT_COST_MODEL, refineCostModel, type CostModel, type Engine, type StepWork } from "@readme-moe/core";

/** Until so many steps were seen, a forecast would be of another machine's. */
const MIN_STEPS = 20;
/** Later, costs drift slowly, and looking at every step would take time from them. */
const LOOK_EVERY = 8;

export class StepCosts {
  readonly maxNumSeqs: number;
  #cost: CostModel = DEFAULT_COST_MODEL;
  #numSteps = 0;

  constructor({ events, info }: Pick<Engine, "events" | "info">) {
    this.maxNumSeqs = info.maxNumSeqs;
    let planned: { readonly step: number; readonly work: StepWork } | undefined;
    events.on("batch:scheduled", ({ step, numTokens, positions, distinctExperts }) => {
      if (this.#numSteps >= MIN_STEPS && step % LOOK_EVERY > 0) return;
      const work = { tokens: sumOf(numTokens), distinctExperts, cachedTokens: sumOf(positions), missingBytes: 0 };
      planned = { step, work };
    });
    events.on("batch:completed", ({ step, durationMs }) => {
      // What is read from disk is not seen here: it becomes a part of what an expert costs.
      if (planned?.step !== step) return;
      this.#cost = refineCostModel(this.#cost, { work: planned.work, durationMs });
      this.#numSteps++;
    });
  }

  /** `undefined` while too little is known. */
  get cost(): CostModel | undefined {
    return this.#numSteps < MIN_STEPS ? undefined : this.#cost;
  }
}

function sumOf(numbers: readonly number[]): number {
  return numbers.reduce((sum, number) => sum + number, 0);
}
