// Several simulated workers, their queues and their published states, event by event.

import {
  integerOption,
  numberOption,
  choosePull,
  DEFAULT_TTL_MS,
  NO_HOMES,
  type FleetState,
  type Homes,
  type WorkerState,
  homesOf,
  movedHomes,
  smoothDemand,
  admitJob,
  predictedWaitMs,
  seededRandom,
} from "@readme-moe/core";
import type { FleetJob } from "./fleet-load.ts";
import { FleetRecord, type FleetResult } from "./fleet-record.ts";
import { FleetQueues, FleetWorker, type PlacedFleetJob, type FleetWorkerOptions } from "./fleet-worker.ts";
import { PUSH_PLACEMENTS, type PushPlacementName } from "./push-placements.ts";

const DEMAND_HALF_LIFE_MS = 5000;
const DROP_EVERY_MS = 100;
/** Time after the last arrival at which jobs that no worker can take are given up. */
const GIVE_UP_MS = 3_600_000;

/**
 * Serves the jobs of a fleet to their end. Deterministic: the same input gives the same result.
 *
 * Workers know their own state and the queues, and of other workers what they published last. Fronts know published
 * states, the queues, and what they sent since. Jobs of a worker that dies are queued again when its last state has
 * expired, and go on after the tokens that they have. Waiting jobs whose deadline passes are dropped.
 *
 * @throws {TypeError | RangeError} naming the option
 */
export function simulateFleet(jobs: readonly FleetJob[], options: FleetOptions): FleetResult {
  integerOption("numWorkers", options.numWorkers, 1);
  numberOption("publishMs", options.publishMs ?? 1000, Number.MIN_VALUE);
  return new Fleet(jobs, options).run();
}

class Fleet {
  readonly #options: FleetOptions;
  readonly #workers: FleetWorker[];
  readonly #events = new EventQueue();
  readonly #queues = new FleetQueues();
  readonly #published = new Map<string, WorkerState>();
  /** Jobs sent to each worker since its last published state. */
  readonly #sent = new Map<string, number>();
  readonly #record: FleetRecord;
  readonly #random: () => number;
  readonly #lastArrivalMs: number;
  #arrivals: Record<string, number> = {};
  #demand: Readonly<Record<string, number>> = {};
  #homes: Homes = NO_HOMES;
  #nowMs = 0;
  #unfinished: number;

  constructor(jobs: readonly FleetJob[], options: FleetOptions) {
    this.#options = options;
    this.#random = seededRandom(options.seed ?? 0);
    this.#workers = Array.from({ length: options.numWorkers }, (_, n) => new FleetWorker(`w${n}`, options.worker));
    const { countFromMs = 0, faults = [], publishMs = 1000 } = options;
    this.#lastArrivalMs = jobs.at(-1)?.arrivalMs ?? 0;
    this.#record = new FleetRecord({ countFromMs, countToMs: this.#lastArrivalMs, perTokenMs: options.perTokenMs });
    this.#unfinished = jobs.length;
    for (const fault of faults) this.#events.add(fault.atMs, () => this.#fault(fault));
    for (const worker of this.#workers) {
      if (faults.some(({ kind, worker: n }) => kind === "start" && worker.id === `w${n}`)) worker.isAlive = false;
      for (const atMs of [0, this.#random() * publishMs]) this.#events.add(atMs, () => this.#publish(worker));
    }
    this.#events.add(0, () => this.#moveHomes());
    this.#events.add(0, () => this.#drop());
    this.#expect(jobs, 0);
  }

  run(): FleetResult {
    for (let next = this.#events.take(); next && this.#unfinished > 0; next = this.#events.take()) {
      this.#nowMs = next.atMs;
      if (this.#nowMs > this.#lastArrivalMs + GIVE_UP_MS) break;
      next.run();
    }
    return this.#record.result(this.#workers);
  }

  /** Lets jobs arrive from a place on; those of one time arrive together. */
  #expect(jobs: readonly FleetJob[], first: number): void {
    const { arrivalMs } = jobs[first] ?? {};
    if (arrivalMs === undefined) return;
    this.#events.add(arrivalMs, () => {
      let place = first;
      for (let job = jobs[place]; job?.arrivalMs === arrivalMs; job = jobs[++place]) this.#arrive(job);
      this.#expect(jobs, place);
    });
  }

  #arrive(job: FleetJob): void {
    this.#arrivals[job.key] = (this.#arrivals[job.key] ?? 0) + 1;
    const placed: PlacedFleetJob = { job, queuedMs: this.#nowMs, numOutputs: 0 };
    const target = this.#options.placement.kind === "push" ? this.#targetOf(job) : undefined;
    const workers = target === undefined ? Array.from(this.#published.values()) : [this.#stateOf(target)];
    const queues = this.#queues.states().filter(({ id }) => target === undefined || id === target);
    const known = { nowMs: this.#nowMs, workers };
    const asked = { ...job, modelVersion: "1" };
    const predictedMs = predictedWaitMs(asked, queues, known);
    if (this.#options.admits !== false && !admitJob(asked, queues, known).isAdmitted) {
      this.#record.refused(job);
      this.#unfinished--;
      return;
    }
    this.#record.predicted(job, predictedMs);
    this.#queue(placed, target);
  }

  /** Adds a job to a queue, and tells workers. */
  #queue(placed: PlacedFleetJob, target: string | undefined = this.#targetOf(placed.job)): void {
    placed.queuedMs = this.#nowMs;
    const { key, priority } = placed.job;
    const queueId = target ?? `${priority}/${key}`;
    this.#queues.add(queueId, placed);
    if (target !== undefined) this.#sent.set(target, (this.#sent.get(target) ?? 0) + 1);
    const hearing = this.#workers.filter(({ isAlive, id }) => isAlive && (target === undefined || id === target));
    for (let left = hearing.length; left > 0; left--) {
      const index = Math.floor(this.#random() * left);
      const worker = hearing[index];
      if (worker) this.#pull(worker, queueId);
      if (this.#queues.lengthOf(queueId) === 0) return;
      hearing.splice(index, 1);
    }
  }

  /** Lets a worker take jobs while it takes any, from all queues or from `only`. */
  #pull(worker: FleetWorker, only?: string): void {
    while (worker.isAlive) {
      const state = worker.stateAt(this.#nowMs);
      if (state.freeSeqs <= 0) break;
      const queueId = this.#choose(worker, state, only);
      const placed = queueId === undefined ? undefined : this.#queues.take(queueId);
      if (!placed) break;
      this.#record.taken(placed, worker, this.#nowMs);
      worker.take(placed, this.#nowMs);
    }
    // Everything else that arrives at this time joins the step.
    if (!worker.isStepping && worker.numRunning > 0) {
      this.#events.add(this.#nowMs, () => this.#beginStep(worker));
    }
  }

  #beginStep(worker: FleetWorker): void {
    const durationMs = worker.isAlive ? worker.beginStep(this.#nowMs) : undefined;
    if (durationMs !== undefined) this.#events.add(this.#nowMs + durationMs, () => this.#endStep(worker));
  }

  #choose(worker: FleetWorker, state: WorkerState, only: string | undefined): string | undefined {
    const { placement } = this.#options;
    if (placement.kind === "push") {
      const [own] = this.#queues.states(worker.id);
      return own && own.head.promptTokens + own.head.maxNewTokens <= state.freeKvTokens ? own.id : undefined;
    }
    const queues = this.#queues.states(only);
    if (placement.kind === "oldest") {
      return queues.toSorted((a, b) => b.priority - a.priority || a.head.queuedMs - b.head.queuedMs)[0]?.id;
    }
    const decision = choosePull(state, queues, this.#state);
    if (decision.reason !== undefined) this.#record.pulled(decision.reason, this.#nowMs);
    if (decision.askAgainMs !== undefined && decision.askAgainMs < Infinity) {
      // A time that has just passed by rounding would ask forever.
      this.#events.add(Math.max(decision.askAgainMs, this.#nowMs + 0.1), () => this.#pull(worker));
    }
    return decision.queueId;
  }

  #endStep(worker: FleetWorker): void {
    if (!worker.isAlive) return;
    for (const placed of worker.endStep(this.#nowMs)) {
      this.#record.ended(placed, this.#nowMs);
      this.#unfinished--;
    }
    this.#pull(worker);
  }

  #publish(worker: FleetWorker): void {
    if (!worker.isAlive) return;
    this.#published.set(worker.id, worker.stateAt(this.#nowMs));
    this.#sent.set(worker.id, this.#queues.lengthOf(worker.id));
    if (this.#nowMs === 0) return;
    this.#events.add(this.#nowMs + (this.#options.publishMs ?? 1000), () => this.#publish(worker));
    this.#pull(worker);
  }

  #moveHomes(): void {
    const { placement } = this.#options;
    if (placement.kind !== "pull") return;
    const elapsedMs = this.#options.publishMs ?? 1000;
    const halfLifeMs = DEMAND_HALF_LIFE_MS;
    this.#demand = smoothDemand(this.#demand, this.#arrivals, { elapsedMs, halfLifeMs });
    this.#arrivals = {};
    const members = this.#alive().map(({ id, cost }) => ({ id, capacity: 1 / cost.msPerToken }));
    const homes = homesOf({ demand: this.#demand, members, previous: this.#homes });
    this.#record.moved(movedHomes(this.#homes, homes), this.#nowMs);
    this.#homes = homes;
    if (this.#nowMs < this.#lastArrivalMs) {
      this.#events.add(this.#nowMs + elapsedMs, () => this.#moveHomes());
    }
  }

  #drop(): void {
    const dropped = this.#queues.dropLate(this.#nowMs);
    this.#unfinished -= dropped.length;
    this.#record.dropped(dropped);
    this.#events.add(this.#nowMs + DROP_EVERY_MS, () => this.#drop());
  }

  #fault({ worker: n, kind, slowdown = 1 }: FleetFault): void {
    const worker = this.#workers[n];
    if (!worker) return;
    if (kind === "slow") worker.slowdown = slowdown;
    if (kind === "die") {
      const jobs = worker.die();
      this.#events.add(this.#nowMs + DEFAULT_TTL_MS, () => this.#queueAgain(jobs, worker.id));
    }
    if (kind === "start") {
      worker.isAlive = true;
      this.#events.add(this.#nowMs, () => this.#publish(worker));
    }
  }

  #queueAgain(jobs: readonly PlacedFleetJob[], goneId: string): void {
    this.#published.delete(goneId);
    for (const placed of [...jobs, ...this.#queues.takeAll(goneId)]) this.#queue(placed);
  }

  /** Chooses the worker that a job is sent to; `undefined` if workers pull. */
  #targetOf({ key, number }: FleetJob): string | undefined {
    const { placement } = this.#options;
    if (placement.kind !== "push") return undefined;
    const targets = this.#alive().map(({ id, cost, runningSeqs }) => {
      return { id, capacity: 1 / cost.msPerToken, load: runningSeqs + (this.#sent.get(id) ?? 0) };
    });
    return targets.length === 0 ? "w0" : PUSH_PLACEMENTS[placement.rule]({ key, number }, targets).id;
  }

  #alive(): readonly WorkerState[] {
    return Array.from(this.#published.values()).filter(
      ({ publishedMs }) => this.#nowMs - publishedMs <= DEFAULT_TTL_MS,
    );
  }

  #stateOf(id: string): WorkerState {
    return this.#published.get(id) ?? new FleetWorker(id, this.#options.worker).stateAt(this.#nowMs);
  }

  get #state(): FleetState {
    return { nowMs: this.#nowMs, workers: Array.from(this.#published.values()), homes: this.#homes };
  }
}

/** Rule that decides where a job runs. */
export type FleetPlacement =
  /** Workers pull by `choosePull`. */
  | { readonly kind: "pull" }
  /** Workers pull the oldest job whenever they have room. */
  | { readonly kind: "oldest" }
  /** The front sends each job to a worker. */
  | { readonly kind: "push"; readonly rule: PushPlacementName };

/** Something that happens to a worker: `start` it, end it, or change its speed. */
export interface FleetFault {
  readonly atMs: number;
  /** Number of the worker, below `numWorkers`. */
  readonly worker: number;
  readonly kind: "die" | "start" | "slow";
  /** Factor of the time of steps, for `slow`. @default 1 */
  readonly slowdown?: number | undefined;
}

/** Options of `simulateFleet`. */
export interface FleetOptions {
  readonly numWorkers: number;
  readonly worker: FleetWorkerOptions;
  readonly placement: FleetPlacement;
  /** Longest mean time per token after the first, for an answer to be in time. */
  readonly perTokenMs: number;
  /** Whether fronts refuse jobs whose predicted wait exceeds their deadline. @default true */
  readonly admits?: boolean | undefined;
  /** @default none */
  readonly faults?: readonly FleetFault[] | undefined;
  /** Time between two published states of a worker, above 0. @default 1000 */
  readonly publishMs?: number | undefined;
  /** Jobs that arrive before this time are not counted. @default 0 */
  readonly countFromMs?: number | undefined;
  /** Seed of the order in which workers hear of a job. @default 0 */
  readonly seed?: number | undefined;
}

/** Events in order of time; events of one time come in the order in which they were added. */
class EventQueue {
  /** Events from the last one to the next one. */
  readonly #events: { readonly atMs: number; readonly run: () => void }[] = [];

  add(atMs: number, run: () => void): void {
    // There are a few for each worker, and most new ones are soon.
    const place = this.#events.findLastIndex((event) => event.atMs > atMs) + 1;
    this.#events.splice(place, 0, { atMs, run });
  }

  /** Removes the next event. @returns it with its time; `undefined` if there is none */
  take(): { readonly atMs: number; readonly run: () => void } | undefined {
    return this.#events.pop();
  }
}
