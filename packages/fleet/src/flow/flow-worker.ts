// Takes tasks of flows from the queue of its machines.

import { UnrecoverableError, WaitingError, Worker, type Job } from "bullmq";
import { addressOf } from "../connection/address.ts";
import { openConnection, type Connection } from "../connection/connect.ts";
import type { FleetPlace } from "../connection/options.ts";
import type { LockTimes } from "../queue/job-queues.ts";
import { readFlowJob, type FlowJob } from "./flow-job.ts";
import { FLOW_LIMITS, FLOW_OPTIONS, flowQueueName } from "./flow-queue.ts";

/** Options of `FlowWorker.open`. */
export interface FlowWorkerOptions extends FleetPlace {
  /** Machines that this one is among, see `TaskFlow`. */
  readonly machines: string;
  /** Runs a task; running it twice does no harm. Rejects with a `TypeError` or `RangeError` if no machine can. */
  readonly run: (job: Pick<FlowJob, "plan" | "task">) => Promise<void>;
  /** Aborted when the worker closes, so that the task goes to another machine. */
  readonly abort: AbortController;
  readonly lockTimes?: LockTimes | undefined;
}

/** A machine that is gone is noticed within these times together. They are longer than any product takes. */
const LOCK_TIMES: LockTimes = { lockMs: 60_000, stalledMs: 15_000 };

/** A task goes on elsewhere as often as it takes. */
const MAX_STALLED = 1_000_000;

/** A machine that takes tasks. */
export class FlowWorker {
  readonly #worker: Worker<unknown>;
  readonly #connection: Connection;
  readonly #options: FlowWorkerOptions;

  private constructor(options: FlowWorkerOptions) {
    const { fleet, machines, lockTimes = LOCK_TIMES, onError } = options;
    this.#options = options;
    const address = addressOf(fleet);
    this.#connection = openConnection(address, onError, FLOW_LIMITS);
    this.#worker = new Worker<unknown>(flowQueueName(machines), (job, token) => this.#process(job, token), {
      ...FLOW_OPTIONS,
      connection: this.#connection.redis,
      concurrency: 1,
      lockDuration: lockTimes.lockMs,
      stalledInterval: lockTimes.stalledMs,
      maxStalledCount: MAX_STALLED,
      runRetryDelay: 1000,
    });
    this.#worker.on("error", (error) => onError?.(error));
    this.#worker.on("failed", (_, error) => onError?.(error));
  }

  /**
   * Starts to take tasks. Goes on after any failure of the connection.
   *
   * @throws {TypeError | RangeError} on a wrong URL
   */
  static open(options: FlowWorkerOptions): FlowWorker {
    return new FlowWorker(options);
  }

  /** Gives its task back, and closes the connections. */
  async close(): Promise<void> {
    this.#options.abort.abort();
    await this.#worker.close().catch(() => undefined);
    this.#connection.close();
  }

  async #process(job: Job<unknown>, token: string | undefined): Promise<void> {
    const { run, abort } = this.#options;
    try {
      const { plan, task } = readFlowJob(job.data);
      await run({ plan, task });
    } catch (error) {
      if (abort.signal.aborted) {
        await job.moveToWait(token);
        throw new WaitingError();
      }
      const isHopeless = error instanceof TypeError || error instanceof RangeError;
      throw isHopeless ? new UnrecoverableError(error.message) : error;
    }
  }
}
