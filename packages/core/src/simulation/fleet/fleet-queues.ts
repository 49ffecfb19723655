// Queues of a simulated fleet: shared ones by key and priority, and one for each worker that jobs are sent to.

import type { QueueState } from "../../placement/fleet-state.ts";
import type { PlacedFleetJob } from "./fleet-worker.ts";

/** Waiting jobs by queue; jobs leave in the order in which they arrived at the fleet. */
export class FleetQueues {
  readonly #jobs = new Map<string, PlacedFleetJob[]>();

  lengthOf(id: string): number {
    return this.#jobs.get(id)?.length ?? 0;
  }

  add(id: string, placed: PlacedFleetJob): void {
    const jobs = this.#jobs.get(id) ?? [];
    if (jobs.length === 0) this.#jobs.set(id, jobs);
    // A job that was taken before goes ahead of younger ones.
    let place = jobs.length;
    while (place > 0 && (jobs[place - 1]?.job.number ?? 0) > placed.job.number) place--;
    jobs.splice(place, 0, placed);
  }

  take(id: string): PlacedFleetJob | undefined {
    const jobs = this.#jobs.get(id);
    const first = jobs?.shift();
    if (jobs?.length === 0) this.#jobs.delete(id);
    return first;
  }

  /** Takes all jobs of a queue. */
  takeAll(id: string): readonly PlacedFleetJob[] {
    const jobs = this.#jobs.get(id) ?? [];
    this.#jobs.delete(id);
    return jobs;
  }

  /** Removes jobs without a first token whose deadline has passed. @returns them */
  dropLate(nowMs: number): readonly PlacedFleetJob[] {
    const dropped: PlacedFleetJob[] = [];
    for (const [id, jobs] of this.#jobs) {
      const isLate = ({ job, firstTokenMs }: PlacedFleetJob): boolean =>
        firstTokenMs === undefined && job.deadlineMs <= nowMs;
      const kept = jobs.filter((placed) => !isLate(placed));
      dropped.push(...jobs.filter(isLate));
      if (kept.length === 0) this.#jobs.delete(id);
      else if (kept.length < jobs.length) this.#jobs.set(id, kept);
    }
    return dropped;
  }

  /** Describes the queues, or only the queue `only`. */
  states(only?: string): readonly QueueState[] {
    const ids = only === undefined ? Array.from(this.#jobs.keys()) : [only];
    return ids.flatMap((id) => {
      const jobs = this.#jobs.get(id) ?? [];
      const [first] = jobs;
      if (!first) return [];
      const { job, queuedMs, numOutputs } = first;
      const promptTokens = job.promptTokens + numOutputs;
      const { expertShares } = job;
      const head = { queuedMs, promptTokens, expertShares, maxNewTokens: job.experts.length + 1 - promptTokens };
      const { key, priority, deadlineMs } = job;
      return [{ id, modelVersion: "1", key, priority, waiting: jobs.length, head: { ...head, deadlineMs } }];
    });
  }
}
