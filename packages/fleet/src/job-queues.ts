// The queues of a model's jobs: one of BullMQ's for each affinity, on one connection.

import { type BackendFactory, createRedisBackend, type Job, Queue, type RedisQueueBackend, Worker } from "bullmq";
import type { Redis } from "ioredis";
import type { EngineInfo, QueueHead, QueueState } from "@readme-moe/core";
import { sharesOf } from "./affinity.ts";
import { completionTokens, expertTokensSchema, type FleetJob, requestIdOf } from "./job.ts";
import { jobOfKey, JOBS_CHANNEL, PREFIX, QUEUE_PREFIX, queueName, requestKeys } from "./keys.ts";
import { RUNNING_TTL_MS, type ScriptedRedis } from "./log/scripts.ts";

/** Times of locks, in ms. A worker that does not renew a lock for `lockMs` loses its job to another. */
export interface LockTimes {
  readonly lockMs: number;
  /** Time between searches for jobs without a lock. */
  readonly stalledMs: number;
}

export const DEFAULT_LOCK_TIMES: LockTimes = { lockMs: 2000, stalledMs: 500 };

/** Entries of a queue's stream of events, which nobody reads. */
const MAX_EVENTS = 100;

/** A job goes on elsewhere as often as it takes. */
const MAX_STALLED = 1_000_000;

const sharedOptions = (redis: Redis) => ({ connection: redis, prefix: QUEUE_PREFIX, skipVersionCheck: true }) as const;

/** Opens a queue. Its commands report their own failures, and the connection its. */
export function openQueue(name: string, redis: Redis): Queue {
  const queue = new Queue(name, { ...sharedOptions(redis), streams: { events: { maxLen: MAX_EVENTS } } });
  queue.on("error", () => undefined);
  return queue;
}

/** Makes the options of a worker of BullMQ's. */
export function workerOptions(redis: Redis, { lockMs, stalledMs }: LockTimes) {
  const lock = { lockDuration: lockMs, stalledInterval: stalledMs, maxStalledCount: MAX_STALLED };
  return { ...sharedOptions(redis), ...lock };
}

/** BullMQ's priorities go from 1, the first, to 2^21, the last. */
const [MIDDLE_PRIORITY, LAST_PRIORITY] = [1_000_000, 2_097_152] as const;

/** Translates a priority, of which larger ones go first. */
export function bullPriority(priority: number): number {
  return Math.min(LAST_PRIORITY, Math.max(1, Math.round(MIDDLE_PRIORITY - 100 * priority)));
}

// Workers fetch jobs by hand, so they need no connection that waits for jobs.
const withoutBlocking: BackendFactory<RedisQueueBackend> = (name, options) => createRedisBackend(name, options, {});

/** Names the keys of the waiting jobs of each queue: a list and a set of priorities. */
export function waitingKeysOf(modelVersion: string, affinities: readonly string[]): readonly string[] {
  const base = (affinity: string): string => `${QUEUE_PREFIX}:${queueName(modelVersion, affinity)}`;
  return affinities.flatMap((affinity) => [`${base(affinity)}:wait`, `${base(affinity)}:prioritized`]);
}

export interface QueuePlace {
  readonly modelVersion: string;
  readonly affinity: string;
}

/** Front that adds a job. */
interface Asker {
  /** Name of the reader of its answer. */
  readonly reader: string;
  /** Longest wait that its client was promised. */
  readonly maxWaitMs: number;
}

export class JobAdder {
  readonly #redis: ScriptedRedis;
  readonly #model: Pick<EngineInfo, "contextTokens">;
  readonly #queues = new Map<string, Queue>();

  constructor(redis: ScriptedRedis, model: Pick<EngineInfo, "contextTokens">) {
    this.#redis = redis;
    this.#model = model;
  }

  /** Adds a job; does nothing if it is there. */
  async add(job: FleetJob, place: QueuePlace, { reader, maxWaitMs }: Asker): Promise<void> {
    const { id, prompt, priority, expertTokens = [], client = "", params } = job;
    const { meta } = requestKeys(id);
    const fields = {
      prompt: prompt.length,
      new: completionTokens(job, this.#model),
      experts: JSON.stringify(expertTokens),
      choices: params.n,
      client,
      version: place.modelVersion,
      affinity: place.affinity,
    };
    const shown = [maxWaitMs, RUNNING_TTL_MS, reader, id, ...Object.entries(fields).flat()];
    const registered = this.#redis.fleetRegister(meta, jobOfKey(requestIdOf(id)), ...shown);
    const options = { jobId: id, priority: bullPriority(priority), removeOnComplete: true, removeOnFail: true };
    const isFirst = !this.#queues.has(queueName(place.modelVersion, place.affinity));
    const queue = this.#queue(place);
    // A queue sends its first command later. The others are sent in this turn, and workers hear of them right behind.
    if (!isFirst) setImmediate(() => this.#wakeWorkers(place));
    try {
      await Promise.all([registered, queue.add("generate", job, options)]);
    } catch (error) {
      // A queue whose first command has failed never works; the next request makes another one.
      if (await isBroken(queue)) this.#queues.delete(queue.name);
      throw error;
    }
    if (isFirst) this.#wakeWorkers(place);
  }

  #wakeWorkers({ modelVersion }: QueuePlace): void {
    // Workers also look by themselves.
    void this.#redis.publish(JOBS_CHANNEL, modelVersion).catch(() => undefined);
  }

  async has(requestId: string, place: QueuePlace): Promise<boolean> {
    return (await this.#redis.exists(this.#queue(place).toKey(requestId))) === 1;
  }

  /** Removes a job that no worker has taken. */
  async remove(requestId: string, place: QueuePlace): Promise<void> {
    await this.#queue(place).remove(requestId);
  }

  async close(): Promise<void> {
    await Promise.allSettled(Array.from(this.#queues.values(), (queue) => queue.close()));
  }

  #queue({ modelVersion, affinity }: QueuePlace): Queue {
    const name = queueName(modelVersion, affinity);
    const queue = this.#queues.get(name) ?? openQueue(name, this.#redis);
    this.#queues.set(name, queue);
    return queue;
  }
}

export interface TakenJob {
  readonly job: Job<unknown>;
  readonly affinity: string;
  readonly token: string;
}

/** Takes jobs by hand, keeps their locks, and gives them back. */
export class JobTaker {
  readonly #redis: ScriptedRedis;
  readonly #modelVersion: string;
  readonly #workers = new Map<string, Worker<unknown>>();
  readonly #times: LockTimes;
  #onStalled: (() => void) | undefined;

  constructor(
    redis: ScriptedRedis,
    modelVersion: string,
    affinities: readonly string[],
    times: LockTimes = DEFAULT_LOCK_TIMES,
  ) {
    this.#redis = redis;
    this.#modelVersion = modelVersion;
    this.#times = times;
    for (const affinity of affinities) this.#workers.set(affinity, this.#worker(affinity));
  }

  get affinities(): readonly string[] {
    return [...this.#workers.keys()];
  }

  /** Starts the searches for jobs whose worker is gone. @param onStalled - called when one has come back */
  async start(onStalled: () => void): Promise<void> {
    this.#onStalled = onStalled;
    for (const worker of this.#workers.values()) await this.#search(worker);
  }

  /** Takes the next job of a queue; nothing if none waits. @param token - a new one for each job */
  async take(affinity: string, token: string): Promise<TakenJob | undefined> {
    const worker = this.#workers.get(affinity);
    try {
      const job = await worker?.getNextJob(token, { block: false });
      return job && { job, affinity, token };
    } catch (error) {
      if (worker && (await isBroken(worker))) await this.#replace(affinity, worker);
      throw error;
    }
  }

  #worker(affinity: string): Worker<unknown> {
    const options = { ...workerOptions(this.#redis, this.#times), autorun: false };
    const worker = new Worker<unknown>(queueName(this.#modelVersion, affinity), null, options, withoutBlocking);
    // Commands report their own failures, and the connection its.
    worker.on("error", () => undefined);
    return worker;
  }

  async #search(worker: Worker<unknown>): Promise<void> {
    worker.on("stalled", () => this.#onStalled?.());
    await worker.startStalledCheckTimer();
  }

  async #replace(affinity: string, broken: Worker<unknown>): Promise<void> {
    if (this.#workers.get(affinity) !== broken) return;
    const worker = this.#worker(affinity);
    this.#workers.set(affinity, worker);
    void broken.close(true).catch(() => undefined);
    await this.#search(worker);
  }

  /** Renews the locks of jobs. @returns those whose lock is lost */
  async renew(jobs: readonly TakenJob[]): Promise<readonly TakenJob[]> {
    const lost = await Promise.all(
      this.affinities.map(async (affinity) => {
        const own = jobs.filter((taken) => taken.affinity === affinity);
        if (own.length === 0) return [];
        const ids = own.map(({ job }) => job.id ?? "");
        const tokens = own.map(({ token }) => token);
        const failed = await this.#workers.get(affinity)?.extendJobLocks(ids, tokens, this.#times.lockMs);
        return own.filter(({ job }) => failed?.includes(job.id ?? ""));
      }),
    );
    return lost.flat();
  }

  /** Removes a job that has ended. */
  async complete({ job, token }: TakenJob): Promise<void> {
    await job.moveToCompleted(null, token, false);
  }

  /** Gives a job back, for another worker. */
  async giveBack({ job, token }: TakenJob): Promise<void> {
    await job.moveToWait(token);
  }

  async close(): Promise<void> {
    await Promise.allSettled(Array.from(this.#workers.values(), (worker) => worker.close(true)));
  }
}

/** Tells whether a queue's first command has failed: BullMQ never repeats it. */
async function isBroken(queue: Queue | Worker<unknown>): Promise<boolean> {
  const pending = new Promise<boolean>((resolve) => setImmediate(resolve, false));
  return Promise.race([
    pending,
    queue.waitUntilReady().then(
      () => false,
      () => true,
    ),
  ]);
}

// The lengths and next jobs of the queues, and the time of the server, which all machines share.

export interface PeekedJob extends QueueHead {
  readonly numSeqs: number;
}

/** A queue with at least one job. */
export interface PeekedQueue extends QueueState {
  /** The jobs that leave next, the first of which is the head. */
  readonly next: readonly PeekedJob[];
}

/** Queues with jobs, at a time of the server. */
export interface PeekedQueues {
  readonly nowMs: number;
  readonly queues: readonly PeekedQueue[];
}

/** Queues to look at. */
interface PeekedKeys {
  readonly modelVersion: string;
  readonly affinities: readonly string[];
  /** Keys of the waiting jobs of each queue: a list and a set of priorities. */
  readonly waitingKeys: readonly string[];
  /** Largest number of jobs of a queue that are shown. @default 1 */
  readonly mostJobs?: number | undefined;
}

type Shown = readonly [queued: string, prompt: string, more: string, deadline: string, experts: string, n: string];

/** Reads which queues have jobs, and what the next ones need. */
export async function peekQueues(
  redis: ScriptedRedis,
  { modelVersion, affinities, waitingKeys, mostJobs = 1 }: PeekedKeys,
): Promise<PeekedQueues> {
  const reply = await redis.fleetPeek(waitingKeys.length, ...waitingKeys, `${PREFIX}:{`, "}:meta", mostJobs);
  const [nowMs, found] = reply as [number, (readonly [number, ...Shown[]])[]];
  const queues = found.flatMap(([waiting, ...shown], index): PeekedQueue[] => {
    const key = affinities[index] ?? "";
    const next = shown.map((one) => jobOf(one, nowMs));
    const [head] = next;
    return head ? [{ id: key, modelVersion, key, priority: 0, waiting, head, next }] : [];
  });
  return { nowMs, queues };
}

function jobOf([queued, prompt, more, deadline, experts, choices]: Shown, nowMs: number): PeekedJob {
  return {
    queuedMs: numberOr(queued, nowMs),
    promptTokens: numberOr(prompt, 0),
    expertShares: readShares(experts),
    maxNewTokens: numberOr(more, 0),
    deadlineMs: deadline === "" ? undefined : numberOr(deadline, nowMs),
    numSeqs: numberOr(choices, 1),
  };
}

function numberOr(text: string, otherwise: number): number {
  const value = Number(text);
  return text !== "" && Number.isFinite(value) && value >= 0 ? value : otherwise;
}

/** Reads counts of tokens by expert; nothing where there are none, or what no front writes. */
function readShares(text: string): readonly number[] | undefined {
  if (text === "") return undefined;
  try {
    return sharesOf(expertTokensSchema.safeParse(JSON.parse(text)).data);
  } catch {
    return undefined;
  }
}
