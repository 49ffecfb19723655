// The homes of affinities as a worker sees them, from what all workers publish.

import { homesOf, NO_HOMES, smoothDemand, type Homes } from "@readme-moe/core";
import type { PublishedWorker } from "./state.ts";

/** Demand of a minute ago counts a quarter. */
const HALF_LIFE_MS = 30_000;

/** Parts of a published state that homes are made of. */
export type HomeMember = Pick<PublishedWorker, "id" | "isDraining" | "maxNumSeqs" | "workByKey" | "homes">;

/** Keeps homes that move slowly. The worker with the first id decides, and the others take its homes over. */
export class HomeKeeper {
  #demand: Readonly<Record<string, number>> = {};
  #homes: Homes = NO_HOMES;

  get homes(): Homes {
    return this.#homes;
  }

  /**
   * @param ownId - id of this worker
   * @param workers - all workers of one model version
   * @param elapsedMs - time since the call before
   */
  observe(ownId: string, workers: readonly HomeMember[], elapsedMs: number): void {
    const work: Record<string, number> = {};
    for (const { workByKey } of workers) {
      for (const [key, tokens] of Object.entries(workByKey)) work[key] = (work[key] ?? 0) + tokens;
    }
    this.#demand = smoothDemand(this.#demand, work, { elapsedMs, halfLifeMs: HALF_LIFE_MS });
    const taking = workers.filter(({ isDraining, maxNumSeqs }) => !isDraining && maxNumSeqs > 0);
    // Each with homes of its own, workers would wait for each other, or all take the same jobs.
    const first = taking.toSorted((a, b) => (a.id < b.id ? -1 : 1))[0];
    if (first && first.id !== ownId) {
      this.#homes = { byKey: first.homes };
      return;
    }
    const members = taking.map(({ id, maxNumSeqs }) => ({ id, capacity: maxNumSeqs }));
    this.#homes = homesOf({ demand: this.#demand, members, previous: this.#homes });
  }
}
