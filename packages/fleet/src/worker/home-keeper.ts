// The homes of affinities as a worker sees them, from what all workers publish.

import { homesOf, NO_HOMES, smoothDemand, type Homes } from "@readme-moe/core";
import type { PublishedWorker } from "./state.ts";

/** Demand of a minute ago counts a quarter. */
const HALF_LIFE_MS = 30_000;

/** Keeps homes that move slowly. Workers see the same states, so their homes differ only for moments. */
export class HomeKeeper {
  #demand: Readonly<Record<string, number>> = {};
  #homes: Homes = NO_HOMES;

  get homes(): Homes {
    return this.#homes;
  }

  /** @param workers - all workers of one model version. @param elapsedMs - time since the call before */
  observe(workers: readonly PublishedWorker[], elapsedMs: number): void {
    const work: Record<string, number> = {};
    for (const { runningByKey } of workers) {
      for (const [key, count] of Object.entries(runningByKey)) work[key] = (work[key] ?? 0) + count * elapsedMs;
    }
    this.#demand = smoothDemand(this.#demand, work, { elapsedMs, halfLifeMs: HALF_LIFE_MS });
    const members = workers
      .filter(({ isDraining, maxNumSeqs }) => !isDraining && maxNumSeqs > 0)
      .map(({ id, maxNumSeqs }) => ({ id, capacity: maxNumSeqs }));
    this.#homes = homesOf({ demand: this.#demand, members, previous: this.#homes });
  }
}
