// Figures of a simulated fleet.

import type { PullReason } from "@readme-moe/core";
import type { FleetJob } from "./fleet-load.ts";
import type { FleetWorker, PlacedFleetJob, WorkerTotals } from "./fleet-worker.ts";
import { meanOf, percentile } from "./serve.ts";

/** Result of `simulateFleet`, over jobs that arrived in the counted time, and what workers did in it. */
export interface FleetResult {
  /** Number of jobs that were asked for. */
  readonly jobs: number;
  /** Jobs per second with a first token before its deadline, and later tokens fast enough. */
  readonly goodputPerS: number;
  /** Jobs that were refused on arrival, or dropped after their deadline. */
  readonly refused: number;
  readonly dropped: number;
  /** Jobs whose answers are complete. */
  readonly ended: number;
  /** Mean over steps of all workers. */
  readonly distinctExperts: number;
  /** Tokens of the worker that ran the most, over the mean of workers that were there at the end. */
  readonly busiestOverMean: number;
  /** Share of the time in which workers ran steps. */
  readonly utilization: number;
  /** Times from arrival to the first token. */
  readonly firstTokenP50Ms: number;
  readonly firstTokenP95Ms: number;
  /** Times from arrival to the last token. */
  readonly answerMeanMs: number;
  readonly answerP95Ms: number;
  /** Mean times per later token. */
  readonly perTokenP50Ms: number;
  readonly perTokenP95Ms: number;
  /** Times from the queue to a place. */
  readonly waitMeanMs: number;
  readonly waitP95Ms: number;
  /** Mean of |predicted − actual wait|, and of predicted − actual. */
  readonly waitErrorMs: number;
  readonly waitBiasMs: number;
  readonly bytesRead: number;
  /** Pulls by reason. */
  readonly pulls: Readonly<Record<PullReason, number>>;
  /** Pairs of key and worker that became homes. */
  readonly movedHomes: number;
}

interface Counted {
  readonly countFromMs: number;
  readonly countToMs: number;
  readonly perTokenMs: number;
}

const NO_TOTALS: WorkerTotals = { steps: 0, distinctExperts: 0, tokens: 0, busyMs: 0, bytesRead: 0 };

export class FleetRecord {
  readonly #counted: Counted;
  #jobs = 0;
  #good = 0;
  #refused = 0;
  #dropped = 0;
  #moved = 0;
  readonly #answers: number[] = [];
  readonly #firsts: number[] = [];
  readonly #perToken: number[] = [];
  readonly #waits: number[] = [];
  readonly #waitErrors: number[] = [];
  readonly #predicted = new Map<string, number>();
  readonly #pulls: Record<PullReason, number> = { home: 0, overdue: 0, stolen: 0 };
  readonly #before = new Map<string, WorkerTotals>();
  readonly #after = new Map<string, WorkerTotals>();

  constructor(counted: Counted) {
    this.#counted = counted;
  }

  refused(job: FleetJob): void {
    if (!this.#counts(job.arrivalMs)) return;
    this.#jobs++;
    this.#refused++;
  }

  /** Notes a job that was admitted. */
  predicted(job: FleetJob, waitMs: number): void {
    if (this.#counts(job.arrivalMs)) this.#jobs++;
    if (waitMs < Infinity) this.#predicted.set(job.id, waitMs);
  }

  taken({ job, queuedMs }: PlacedFleetJob, worker: FleetWorker, nowMs: number): void {
    this.#note(worker, nowMs);
    if (!this.#counts(job.arrivalMs)) return;
    const waitedMs = nowMs - queuedMs;
    this.#waits.push(waitedMs);
    const predictedMs = this.#predicted.get(job.id);
    if (predictedMs !== undefined && queuedMs === job.arrivalMs) this.#waitErrors.push(predictedMs - waitedMs);
    this.#predicted.delete(job.id);
  }

  pulled(reason: PullReason, nowMs: number): void {
    if (this.#counts(nowMs)) this.#pulls[reason]++;
  }

  moved(homes: number, nowMs: number): void {
    if (this.#counts(nowMs)) this.#moved += homes;
  }

  dropped(jobs: readonly PlacedFleetJob[]): void {
    this.#dropped += jobs.filter(({ job }) => this.#counts(job.arrivalMs)).length;
  }

  ended({ job, firstTokenMs = Infinity }: PlacedFleetJob, nowMs: number): void {
    if (!this.#counts(job.arrivalMs)) return;
    const outputTokens = job.experts.length - job.promptTokens + 1;
    const perTokenMs = outputTokens > 1 ? (nowMs - firstTokenMs) / (outputTokens - 1) : 0;
    this.#answers.push(nowMs - job.arrivalMs);
    this.#firsts.push(firstTokenMs - job.arrivalMs);
    if (outputTokens > 1) this.#perToken.push(perTokenMs);
    if (firstTokenMs <= job.deadlineMs && perTokenMs <= this.#counted.perTokenMs) this.#good++;
  }

  result(workers: readonly FleetWorker[]): FleetResult {
    const { countFromMs, countToMs } = this.#counted;
    const durationMs = Math.max(Number.MIN_VALUE, countToMs - countFromMs);
    const totals = workers.map(({ id }) => minus(this.#after.get(id) ?? NO_TOTALS, this.#before.get(id) ?? NO_TOTALS));
    const sum = (name: keyof WorkerTotals): number => totals.reduce((all, one) => all + one[name], 0);
    const alive = totals.filter((_, index) => workers[index]?.isAlive);
    return {
      jobs: this.#jobs,
      goodputPerS: (1000 * this.#good) / durationMs,
      refused: this.#refused,
      dropped: this.#dropped,
      ended: this.#answers.length,
      distinctExperts: sum("distinctExperts") / Math.max(1, sum("steps")),
      busiestOverMean: Math.max(...alive.map(({ tokens }) => tokens)) / meanOf(alive.map(({ tokens }) => tokens)),
      utilization: sum("busyMs") / (workers.length * durationMs),
      firstTokenP50Ms: percentile(this.#firsts, 0.5),
      firstTokenP95Ms: percentile(this.#firsts, 0.95),
      answerMeanMs: meanOf(this.#answers),
      answerP95Ms: percentile(this.#answers, 0.95),
      perTokenP50Ms: percentile(this.#perToken, 0.5),
      perTokenP95Ms: percentile(this.#perToken, 0.95),
      waitMeanMs: meanOf(this.#waits),
      waitP95Ms: percentile(this.#waits, 0.95),
      waitErrorMs: meanOf(this.#waitErrors.map(Math.abs)),
      waitBiasMs: meanOf(this.#waitErrors),
      bytesRead: sum("bytesRead"),
      pulls: { ...this.#pulls },
      movedHomes: this.#moved,
    };
  }

  /** Notes the totals of a worker at the first and last pull in the counted time. */
  #note(worker: FleetWorker, nowMs: number): void {
    if (!this.#counts(nowMs)) return;
    if (!this.#before.has(worker.id)) this.#before.set(worker.id, worker.totals);
    this.#after.set(worker.id, worker.totals);
  }

  #counts(atMs: number): boolean {
    return atMs >= this.#counted.countFromMs && atMs <= this.#counted.countToMs;
  }
}

function minus(a: WorkerTotals, b: WorkerTotals): WorkerTotals {
  return {
    steps: a.steps - b.steps,
    distinctExperts: a.distinctExperts - b.distinctExperts,
    tokens: a.tokens - b.tokens,
    busyMs: a.busyMs - b.busyMs,
    bytesRead: a.bytesRead - b.bytesRead,
  };
}
