// A machine of the fleet: takes jobs while it has room, and writes their answers.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import {
  choosePull,
  type FleetState,
  type PullDecision,
  ReadMeEmitter,
  type WorkerState,
  type Engine,
} from "@readme-moe/core";
import { affinitiesOf } from "../affinity.ts";
import { addressOf, type Connection, openConnection, type FleetMemberOptions } from "../connect.ts";
import {
  DEFAULT_LOCK_TIMES,
  JobTaker,
  type PeekedQueue,
  type PeekedQueues,
  peekQueues,
  type TakenJob,
  waitingKeysOf,
  type LockTimes,
} from "../job-queues.ts";
import { readJob, requireGenerating } from "../job.ts";
import { CANCEL_CHANNEL, JOBS_CHANNEL } from "../keys.ts";
import { WorkerLogs } from "../log/log-writer.ts";
import { type ScriptedRedis, withScripts } from "../log/scripts.ts";
import { describeWorker, EngineMeasure, type HeldJob, HomeKeeper, placesOf } from "./describe-worker.ts";
import { Constraints, endJob, type JobEnd, type Running, RunningJob } from "./running-job.ts";
import { newCounters, type PublishedWorker, publishState, readWorkers, withdrawState } from "./state.ts";

const [PUBLISH_MS, RENEW_MS, POLL_MS] = [1000, 500, 250] as const;

/** Jobs that are taken together. */
const MAX_PULLS = 16;

/** A worker of a fleet. */
export class FleetWorker {
  readonly id: string;
  /** Bus of `job:ended`. */
  readonly events: ReadMeEmitter = new ReadMeEmitter();
  readonly #options: FleetWorkerOptions;
  readonly #versions: { readonly promptVersion: string; readonly modelVersion: string };
  readonly #constraints: Constraints;
  readonly #connections: readonly Connection[];
  readonly #redis: ScriptedRedis;
  readonly #logs: WorkerLogs;
  readonly #taker: JobTaker;
  readonly #waitingKeys: readonly string[];
  readonly #running = new Map<string, Running>();
  readonly #counters = newCounters();
  readonly #measure = new EngineMeasure();
  readonly #loop: PullLoop;
  readonly #homes = new HomeKeeper();
  readonly #timers: NodeJS.Timeout[] = [];
  #others: readonly PublishedWorker[] = [];
  #pulls = 0;
  /** Difference between the server's clock and this process's. */
  #clockMs = 0;
  #isDraining = false;
  /** Whether it takes jobs; also while it drains, if nobody else could. */
  #takesJobs = true;
  #isClosed = false;

  private constructor(options: FleetWorkerOptions) {
    const { fleet, limits, onError, engine, lockTimes } = options;
    requireGenerating(engine.info);
    const { promptVersion, modelVersion } = engine.info;
    if (promptVersion === undefined || modelVersion === undefined) {
      throw new TypeError("Expected `engine` to know the version of its model");
    }
    this.#versions = { promptVersion, modelVersion };
    this.#constraints = new Constraints(engine);
    this.#loop = new PullLoop(
      () => this.#pullSome(),
      (error) => this.#report(error),
    );
    this.id = options.id ?? `worker-${randomUUID().slice(0, 8)}`;
    this.#options = options;
    const address = addressOf(fleet);
    const open = (): Connection => openConnection(address, onError, limits);
    const [main, listening, writing] = [open(), open(), open()];
    this.#connections = [main, listening, writing];
    this.#redis = withScripts(main.redis);
    this.#logs = new WorkerLogs(withScripts(writing.redis));
    const affinities = affinitiesOf(engine.info);
    this.#waitingKeys = waitingKeysOf(modelVersion, affinities);
    this.#taker = new JobTaker(this.#redis, modelVersion, affinities, lockTimes ?? DEFAULT_LOCK_TIMES);
    listening.listen([JOBS_CHANNEL, CANCEL_CHANNEL], (channel, message) => this.#hear(channel, message));
  }

  /**
   * Starts to take jobs. Goes on after any failure of the connection.
   *
   * @throws {TypeError | RangeError} on a wrong URL, or a model that does not generate
   */
  static open(options: FleetWorkerOptions): FleetWorker {
    const worker = new FleetWorker(options);
    worker.#start();
    return worker;
  }

  get numRunning(): number {
    return this.#running.size;
  }

  /**
   * State as it is published.
   *
   * @param isDraining - false for what a worker that drains could still take
   * @param next - jobs that it also holds
   */
  state(isDraining: boolean = this.#isDraining, next: readonly HeldJob[] = []): PublishedWorker {
    const { info } = this.#options.engine;
    return describeWorker({
      id: this.id,
      ...this.#versions,
      info,
      publishedMs: performance.now() + this.#clockMs,
      jobs: [...this.#running.values(), ...next],
      measure: this.#measure,
      pulls: this.#pulls + next.length,
      homes: this.#homes.homes.byKey,
      counters: { ...this.#counters },
      isDraining,
    });
  }

  /**
   * Takes no more jobs, and hands those that run to other workers, within a step. The last worker of a model version
   * that is being replaced answers the requests of its version before.
   */
  async drain(): Promise<void> {
    [this.#isDraining, this.#takesJobs] = [true, false];
    await publishState(this.#redis, this.state()).catch(() => undefined);
    const around = {
      workers: () => readWorkers(this.#redis),
      numLeft: async () => (await this.#peek(1)).queues.reduce((sum, { waiting }) => sum + waiting, this.#running.size),
      onLast: () => void (this.#takesJobs = true),
    };
    await finishVersion({ id: this.id, ...this.#versions }, around).catch((error: unknown) => this.#report(error));
    await this.#release();
  }

  /** Hands all jobs to other workers. */
  async #release(): Promise<void> {
    [this.#isDraining, this.#takesJobs] = [true, false];
    for (const { run } of this.#running.values()) run.stop("released");
    await Promise.all(Array.from(this.#running.values(), ({ ended }) => ended));
  }

  /** Drains, and closes the connections. The engine stays open. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    await this.drain();
    this.#isClosed = true;
    for (const timer of this.#timers) clearInterval(timer);
    await withdrawState(this.#redis, this.id).catch(() => undefined);
    await this.#taker.close();
    for (const { close } of this.#connections) close();
    await this.#constraints.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #start(): void {
    const every = (ms: number, act: () => Promise<void>): void => {
      this.#timers.push(repeat(ms, act, (error) => this.#report(error)));
    };
    every(PUBLISH_MS, () => this.#publish());
    every(RENEW_MS, () => this.#renew());
    every(POLL_MS, () => this.#loop.pull());
    // Its jobs go to others at once, and it takes no more.
    void this.#options.engine
      .whenFailed()
      .then(() => this.#release())
      .catch((error: unknown) => this.#report(error));
    void this.#taker.start(() => this.#loop.wake()).catch((error: unknown) => this.#report(error));
    void this.#publish().catch((error: unknown) => this.#report(error));
    this.#loop.wake();
  }

  #hear(channel: string, message: string): void {
    if (channel === JOBS_CHANNEL && message === this.#versions.modelVersion) this.#loop.wake();
    if (channel === CANCEL_CHANNEL) this.#running.get(message)?.run.stop("cancelled");
  }

  async #publish(): Promise<void> {
    this.#measure.observe(await this.#options.engine.stats(), this.#running.size, performance.now());
    const [seconds = 0, micros = 0] = (await this.#redis.time()).map(Number);
    this.#clockMs = seconds * 1000 + micros / 1000 - performance.now();
    await publishState(this.#redis, this.state());
    const workers = await readWorkers(this.#redis);
    this.#others = workers.filter(({ modelVersion }) => modelVersion === this.#versions.modelVersion);
    this.#homes.observe(this.id, this.#others, PUBLISH_MS);
  }

  async #renew(): Promise<void> {
    const lost = await this.#taker.renew(Array.from(this.#running.values(), ({ taken }) => taken));
    // Another worker has the job, or gets it.
    for (const { job } of lost) this.#running.get(job.id ?? "")?.run.stop("foreign");
  }

  /** Takes the next jobs. @returns whether there may be more */
  async #pullSome(): Promise<boolean> {
    const { freeSeqs } = this.state(false);
    if (freeSeqs === 0 || !this.#takesJobs) return false;
    const { queues, nowMs } = await this.#peek(Math.min(freeSeqs, MAX_PULLS));
    this.#clockMs = nowMs - performance.now();
    const fleet: FleetState = { nowMs, workers: this.#others, homes: this.#homes.homes };
    const { queueIds, askAgainMs } = choosePulls(queues, fleet, (held) => this.state(false, held));
    if (queueIds.length === 0) {
      const inMs = (askAgainMs ?? Infinity) - nowMs;
      if (inMs < POLL_MS) setTimeout(() => this.#loop.wake(), Math.max(1, inMs)).unref();
      return false;
    }
    const pulls = queueIds.map(async (queueId) => {
      const taken = await this.#taker.take(queueId, `${this.id}:${randomUUID()}`);
      if (taken) this.#begin(taken);
    });
    // A job that was taken runs, whatever became of the others.
    for (const pull of await Promise.allSettled(pulls)) if (pull.status === "rejected") throw pull.reason;
    return true;
  }

  #peek(mostJobs: number): Promise<PeekedQueues> {
    const { affinities } = this.#taker;
    const { modelVersion } = this.#versions;
    return peekQueues(this.#redis, { modelVersion, affinities, waitingKeys: this.#waitingKeys, mostJobs });
  }

  #begin(taken: TakenJob): void {
    this.#pulls++;
    const id = taken.job.id ?? "";
    let job;
    try {
      job = readJob(taken.job.data);
      if (job.id !== id) throw new TypeError("Expected a job under its own id");
    } catch (error) {
      this.#counters.refused++;
      this.#report(error);
      void this.#taker.complete(taken).catch(() => undefined);
      return;
    }
    const { n } = job.params;
    const { affinity } = taken;
    let numTokens = 0;
    const run = new RunningJob(job, {
      logs: this.#logs,
      engine: this.#options.engine,
      workerId: this.id,
      engineId: `${id}.${this.#pulls}`,
      events: this.events,
      openConstraint: (source, client) => this.#constraints.open(source, client),
      onChunk: ({ tokens, usage }) => {
        this.#counters.tokens += tokens.length;
        this.#measure.worked(affinity, tokens.length);
        numTokens += tokens.length;
        if (usage) this.#measure.ended({ affinity, steps: numTokens / n, cachedTokens: usage.cachedTokens / n });
      },
      onResumed: () => this.#counters.resumed++,
    });
    // It was taken while the others were handed on.
    if (!this.#takesJobs) run.stop("released");
    // A job that this worker has lost may come back to it before the engine has ended it.
    const before = this.#running.get(id);
    before?.run.stop("foreign");
    const ended = (before?.ended ?? Promise.resolve())
      .then(() => run.run())
      .catch((error: unknown): JobEnd => {
        this.#report(error);
        return "released";
      })
      .then((end) => this.#finish(taken, end));
    this.#running.set(id, { taken, run, ended, ...placesOf(job, affinity, this.#options.engine.info) });
  }

  async #finish(taken: TakenJob, end: JobEnd): Promise<void> {
    const id = taken.job.id ?? "";
    this.#counters[end]++;
    try {
      await endJob(taken, end, this.#taker);
      if (end === "released") await this.#redis.publish(JOBS_CHANNEL, this.#versions.modelVersion);
    } catch (error) {
      // The lock ends, and another worker finds the job.
      this.#report(error);
    } finally {
      if (this.#running.get(id)?.taken === taken) this.#running.delete(id);
      if (end !== "released") this.#loop.wake();
    }
  }

  #report(error: unknown): void {
    if (this.#isClosed) return;
    this.#options.onError?.(error instanceof Error ? error : new Error(String(error)));
  }
}

/** Takes jobs whenever there may be some, one round at a time. */
class PullLoop {
  readonly #pullSome: () => Promise<boolean>;
  readonly #onError: (error: unknown) => void;
  #isPulling = false;
  #mayHaveJobs = false;

  /** @param pullSome - takes jobs, and tells whether there may be more */
  constructor(pullSome: () => Promise<boolean>, onError: (error: unknown) => void) {
    this.#pullSome = pullSome;
    this.#onError = onError;
  }

  /** Looks for jobs now, or after the look that goes on. */
  wake(): void {
    this.#mayHaveJobs = true;
    void this.pull().catch(this.#onError);
  }

  /** Looks for jobs, unless a look goes on. */
  async pull(): Promise<void> {
    if (this.#isPulling) return;
    this.#isPulling = true;
    try {
      do {
        this.#mayHaveJobs = false;
        while (await this.#pullSome());
      } while (this.#mayHaveJobs);
    } finally {
      this.#isPulling = false;
    }
  }
}

/**
 * Repeats an action, never twice at the same time: a slow server must not be asked faster than it answers.
 *
 * @returns the timer, which keeps the process running
 */
function repeat(everyMs: number, act: () => Promise<void>, onError: (error: unknown) => void): NodeJS.Timeout {
  let isActing = false;
  return setInterval(() => {
    if (isActing) return;
    isActing = true;
    act()
      .catch(onError)
      .finally(() => (isActing = false));
  }, everyMs);
}

// The jobs that a worker takes together: each as if those before it ran already.

/** Decision about several jobs. */
interface PullDecisions extends Pick<PullDecision, "askAgainMs"> {
  /** Queues to take a job from, one after the other; a queue may occur several times. */
  readonly queueIds: readonly string[];
}

/**
 * Chooses the queues of the next jobs, by `choosePull`. Jobs behind those that were looked at are left for the next
 * look.
 *
 * @param stateOf - state of the worker once it also holds these jobs
 */
export function choosePulls(
  queues: readonly PeekedQueue[],
  fleet: FleetState,
  stateOf: (held: readonly HeldJob[]) => WorkerState,
): PullDecisions {
  const held: HeldJob[] = [];
  const queueIds: string[] = [];
  let left = queues;
  for (;;) {
    const { queueId, askAgainMs } = choosePull(stateOf(held), left, fleet);
    const queue = left.find(({ id }) => id === queueId);
    const [job, ...next] = queue?.next ?? [];
    if (!queue || !job) return { queueIds, askAgainMs };
    queueIds.push(queue.id);
    const { numSeqs, expertShares, promptTokens, maxNewTokens } = job;
    const shares = expertShares && Array.from(expertShares);
    held.push({ affinity: queue.key, numSeqs, expertShares: shares, kvTokens: promptTokens + maxNewTokens });
    const [head] = next;
    const rest = head ? [{ ...queue, waiting: queue.waiting - 1, head, next }] : [];
    left = left.flatMap((one) => (one === queue ? rest : [one]));
  }
}

// The end of a worker that drains while workers of another model version take its place.

type Known = Pick<PublishedWorker, "id" | "promptVersion" | "modelVersion" | "isDraining">;

/**
 * Tells whether nobody else could go on with a worker's requests, because its model version is being replaced. Without
 * a worker of another version it is a restart, after which the same version goes on.
 */
export function isLastOfVersion(own: Omit<Known, "isDraining">, workers: readonly Known[]): boolean {
  const taking = workers.filter(({ id, isDraining }) => id !== own.id && !isDraining);
  if (taking.some(({ modelVersion }) => modelVersion === own.modelVersion)) return false;
  return taking.some(({ promptVersion }) => promptVersion === own.promptVersion);
}

/** Time after which no front adds requests of a version whose last worker drains, in ms. */
const SEEN_MS = 2000;
const LOOK_MS = 250;

/** Waits until the requests of a worker's version have ended, for as long as it is the last of its version. */
async function finishVersion(
  own: Omit<Known, "isDraining">,
  fleet: {
    readonly workers: () => Promise<readonly Known[]>;
    /** Counts the requests of the version that run here, or wait. */
    readonly numLeft: () => Promise<number>;
    /** Called each time that this worker turns out to be the last. */
    readonly onLast: () => void;
  },
): Promise<void> {
  const seenMs = performance.now() + SEEN_MS;
  while (isLastOfVersion(own, await fleet.workers())) {
    fleet.onLast();
    if (performance.now() > seenMs && (await fleet.numLeft()) === 0) return;
    await sleep(LOOK_MS);
  }
}

/** Options of `FleetWorker.open`. */
export interface FleetWorkerOptions extends FleetMemberOptions {
  /** Engine that answers the jobs. The caller disposes it after the worker. */
  readonly engine: Engine;
  /** Name in metrics and status. @default a random one */
  readonly id?: string | undefined;
  readonly lockTimes?: LockTimes | undefined;
}
