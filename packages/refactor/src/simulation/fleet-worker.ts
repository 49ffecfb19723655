// A worker of a simulated fleet: an engine's scheduler and expert cache on a clock of given costs.

import {
  expertBytes,
  inEveryLayer,
  type ExpertLayout,
  ExpertCache,
  type AffinityKey,
  type WorkerState,
  predictStepMs,
  type CostModel,
  type StepWork,
  type Scheduler,
  type SchedulerLimits,
  type SchedulerState,
  type QueueState,
} from "@readme-moe/core";
import type { FleetJob } from "./fleet-load.ts";
import { SimulatedSequence, StepClock } from "./serve.ts";

/** Machine and engine of every worker. */
export interface FleetWorkerOptions {
  readonly layout: ExpertLayout;
  /** Bytes of experts in memory. */
  readonly budgetBytes: number;
  readonly cost: CostModel;
  readonly scheduler: Scheduler;
  readonly limits: SchedulerLimits;
  /** Largest number of running sequences. */
  readonly maxNumSeqs: number;
  /** Tokens whose keys and values fit. */
  readonly kvTokens: number;
}

/** A job in a fleet, with what has become of it so far. */
export interface PlacedFleetJob {
  readonly job: FleetJob;
  /** Time at which it was last added to a queue. */
  queuedMs: number;
  /** Tokens of the answer so far. */
  numOutputs: number;
  firstTokenMs?: number;
}

/** Sums over the steps of a worker. */
export interface WorkerTotals {
  readonly steps: number;
  readonly distinctExperts: number;
  readonly tokens: number;
  readonly busyMs: number;
  readonly bytesRead: number;
}

// Weight of the last step, and of the last sequence, in the means that are published.
const STEP_WEIGHT = 0.05;
const SEQ_WEIGHT = 0.1;

interface Running {
  readonly placed: PlacedFleetJob;
  readonly sequence: SimulatedSequence;
  readonly sinceStep: number;
}

export class FleetWorker {
  readonly id: string;
  /** Factor of the time of all steps. */
  slowdown = 1;
  isAlive = true;
  pulls = 0;
  readonly #options: FleetWorkerOptions;
  /** Absent if all experts are in memory. */
  readonly #streamed: { readonly cache: ExpertCache; readonly clock: StepClock } | undefined;
  readonly #running = new Map<string, Running>();
  #tokensOfStep: ReadonlyMap<string, number> | undefined;
  #stepMs = 0;
  #stepsPerSeq = 0;
  #totals = { steps: 0, distinctExperts: 0, tokens: 0, busyMs: 0 };

  constructor(id: string, options: FleetWorkerOptions) {
    this.id = id;
    this.#options = options;
    const { layout, budgetBytes, cost } = options;
    if (budgetBytes >= layout.numExperts * expertBytes(layout)) return;
    const cache = new ExpertCache({ layout, budgetBytes });
    this.#streamed = { cache, clock: new StepClock(cache, layout, { cost, overlapsReads: true }) };
  }

  get isStepping(): boolean {
    return this.#tokensOfStep !== undefined;
  }

  get numRunning(): number {
    return this.#running.size;
  }

  get totals(): WorkerTotals {
    return { ...this.#totals, bytesRead: this.#streamed?.cache.counters.bytesRead ?? 0 };
  }

  /** Describes the worker as it is at `nowMs`. */
  stateAt(nowMs: number): WorkerState {
    const { maxNumSeqs, kvTokens, layout, budgetBytes } = this.#options;
    const runningByKey: Record<AffinityKey, number> = {};
    const runningByExpert = Array.from({ length: layout.numExperts }, () => 0);
    let usedTokens = 0;
    for (const { placed } of this.#running.values()) {
      runningByKey[placed.job.key] = (runningByKey[placed.job.key] ?? 0) + 1;
      for (const [expert, share] of placed.job.expertShares.entries()) {
        runningByExpert[expert] = (runningByExpert[expert] ?? 0) + share;
      }
      usedTokens += placed.job.experts.length + 1;
    }
    return {
      id: this.id,
      modelVersion: "1",
      publishedMs: nowMs,
      runningSeqs: this.#running.size,
      runningByKey,
      runningByExpert,
      freeSeqs: maxNumSeqs - this.#running.size,
      freeKvTokens: kvTokens - usedTokens,
      missingBytes: this.#missingBytes(),
      expertPlaces: this.#streamed ? budgetBytes / expertBytes(layout) : Infinity,
      prefixTokens: {},
      cost: this.#cost,
      stepMs: this.#stepMs,
      stepsPerSeq: this.#stepsPerSeq,
      pulls: this.pulls,
    };
  }

  take(placed: PlacedFleetJob, nowMs: number): void {
    const { job, numOutputs } = placed;
    const start = { arrival: job.number, arrivalMs: job.arrivalMs, priority: job.priority, numOutputs };
    const sequence = new SimulatedSequence(job, start);
    sequence.waitingSinceMs = nowMs;
    this.#running.set(job.id, { placed, sequence, sinceStep: this.#totals.steps });
    this.pulls++;
  }

  /** Begins a step if there are sequences and none runs. @returns its duration in ms; `undefined` if none begins */
  beginStep(nowMs: number): number | undefined {
    if (this.isStepping || this.#running.size === 0) return undefined;
    const { scheduler, limits } = this.#options;
    const sequences = Array.from(this.#running.values(), ({ sequence }) => sequence);
    const state: SchedulerState = { sequences, nowMs, limits, cost: this.#cost, missingBytes: this.#missingBytes() };
    const numTokens = new Map(scheduler(state).map((one) => [one.id, one.numTokens]));
    const used = new Set<number>();
    const work = { tokens: 0, distinctExperts: 0, cachedTokens: 0 };
    for (const sequence of sequences) {
      const count = numTokens.get(sequence.id);
      if (count === undefined) continue;
      for (const expert of sequence.nextExperts.slice(0, count)) used.add(expert);
      work.tokens += count;
      work.cachedTokens += sequence.numComputedTokens;
    }
    work.distinctExperts = used.size;
    const experts = Array.from(used).toSorted((a, b) => a - b);
    const durationMs = this.#durationMs(experts, work, sequences) * this.slowdown;
    this.#tokensOfStep = numTokens;
    this.#stepMs = this.#stepMs === 0 ? durationMs : this.#stepMs + STEP_WEIGHT * (durationMs - this.#stepMs);
    this.#totals.steps++;
    this.#totals.distinctExperts += experts.length;
    this.#totals.tokens += work.tokens;
    this.#totals.busyMs += durationMs;
    return durationMs;
  }

  /** Ends the step that runs. @returns jobs whose answers are complete */
  endStep(nowMs: number): readonly PlacedFleetJob[] {
    const ended: PlacedFleetJob[] = [];
    for (const [id, count] of this.#tokensOfStep ?? []) {
      const running = this.#running.get(id);
      if (!running) continue;
      const { placed, sequence, sinceStep } = running;
      sequence.advance(count, nowMs);
      placed.numOutputs = sequence.completionTokens;
      if (placed.numOutputs > 0) placed.firstTokenMs ??= nowMs;
      if (!sequence.isFinished) continue;
      this.#running.delete(id);
      const steps = this.#totals.steps - sinceStep;
      this.#stepsPerSeq =
        this.#stepsPerSeq === 0 ? steps : this.#stepsPerSeq + SEQ_WEIGHT * (steps - this.#stepsPerSeq);
      ended.push(placed);
    }
    this.#tokensOfStep = undefined;
    return ended;
  }

  /** Stops the worker for good. @returns jobs that it ran */
  die(): readonly PlacedFleetJob[] {
    this.isAlive = false;
    this.#tokensOfStep = undefined;
    const jobs = Array.from(this.#running.values(), ({ placed }) => placed);
    this.#running.clear();
    return jobs;
  }

  get #cost(): CostModel {
    const { cost } = this.#options;
    if (this.slowdown === 1) return cost;
    return {
      fixedMs: cost.fixedMs * this.slowdown,
      msPerToken: cost.msPerToken * this.slowdown,
      msPerExpert: cost.msPerExpert * this.slowdown,
      msPerCachedToken: cost.msPerCachedToken * this.slowdown,
      loadMsPerByte: cost.loadMsPerByte * this.slowdown,
    };
  }

  #missingBytes(): ArrayLike<number> {
    return this.#streamed?.cache.missingBytes() ?? [];
  }

  /** Runs a step. @returns its time at full speed */
  #durationMs(
    experts: readonly number[],
    work: Omit<StepWork, "missingBytes">,
    sequences: readonly SimulatedSequence[],
  ): number {
    const { cost, layout } = this.#options;
    if (!this.#streamed) return predictStepMs(cost, { ...work, missingBytes: 0 });
    const { clock } = this.#streamed;
    const beforeMs = clock.nowMs;
    clock.runStep(inEveryLayer(layout, experts), work, { laterSteps: this.#laterSteps(sequences) });
    return clock.nowMs - beforeMs;
  }

  /** Estimates the next use of each expert: a sequence keeps the expert of its last known token. */
  #laterSteps(sequences: readonly SimulatedSequence[]): readonly number[] {
    const steps = Array.from({ length: this.#options.layout.numExperts }, () => Infinity);
    for (const { nextExperts } of sequences) steps[nextExperts[nextExperts.length - 1] ?? 0] = 1;
    return steps;
  }
}

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
