// Batches of fronts that share a folder. A queue of BullMQ gives each to one front, and to another one when that front
// is gone.

import { setTimeout as sleep } from "node:timers/promises";
import { type Queue, WaitingError, Worker } from "bullmq";
import { addressOf, openConnection, type Connection, type ConnectionLimits, type FleetPlace } from "../connect.ts";
import { queueName } from "../keys.ts";
import { type LockTimes, openQueue, workerOptions } from "../job-queues.ts";

/** Options of `openBatchQueue`. */
export interface BatchQueueOptions extends FleetPlace {
  readonly lockTimes?: LockTimes | undefined;
}

/** Name before that of the folder, where the queues of requests have a version of a model. */
const BATCHES = "batches";
/** A front that is gone is noticed within these times together. */
const LOCK_TIMES: LockTimes = { lockMs: 5000, stalledMs: 2000 };
/** A front's connection waits for batches for five seconds. */
const LIMITS: ConnectionLimits = { commandMs: 10_000, silentMs: 10_000 };
/** Wait before a batch that could not go on is given to a front again. */
const RETRY_MS = 1000;

/**
 * Opens a queue for `readMe({ batches: { folder, queue } })`.
 *
 * @throws {TypeError | RangeError} on a wrong URL
 */
export function openBatchQueue(options: BatchQueueOptions): BatchQueue {
  return new BatchQueue(options);
}

/** Gives each batch to one front. */
export class BatchQueue {
  readonly #connection: Connection;
  readonly #times: LockTimes;
  readonly #onError: (error: Error) => void;
  #queue: Queue | undefined;
  #worker: Worker | undefined;
  #isClosing = false;

  constructor({ fleet, lockTimes = LOCK_TIMES, onError = () => undefined }: BatchQueueOptions) {
    this.#connection = openConnection(addressOf(fleet), onError, LIMITS);
    this.#times = lockTimes;
    this.#onError = onError;
  }

  /** Begins to take batches. `run` resolves with whether a batch has ended. */
  start(name: string, most: number, run: (id: string, signal: AbortSignal) => Promise<boolean>): void {
    const { redis } = this.#connection;
    const ofFolder = queueName(BATCHES, name);
    this.#queue = openQueue(ofFolder, redis);
    const worker = new Worker(
      ofFolder,
      async (job, token, signal = new AbortController().signal) => {
        if (await run(job.id ?? "", signal)) return;
        if (!this.#isClosing) await sleep(RETRY_MS);
        await job.moveToWait(token);
        throw new WaitingError();
      },
      { ...workerOptions(redis, this.#times), concurrency: most, runRetryDelay: RETRY_MS },
    );
    worker.on("error", this.#onError);
    // Another front may have these batches.
    worker.on("lockRenewalFailed", (ids) => {
      for (const id of ids) worker.cancelJob(id);
    });
    this.#worker = worker;
  }

  /** Adds a batch; does nothing if it is there. */
  async add(id: string): Promise<void> {
    await this.#queue?.add("batch", null, { jobId: id, removeOnComplete: true, removeOnFail: true });
  }

  /** Takes no more batches, and resolves when those of this front have ended or are given back. */
  async close(): Promise<void> {
    this.#isClosing = true;
    await Promise.allSettled([this.#worker?.close(), this.#queue?.close()]);
    this.#connection.close();
  }
}
