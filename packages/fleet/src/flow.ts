// Adds flows of tasks, and waits for their ends. It keeps no state: one that is started again finds its jobs in the
// queue, and the results of those that have ended in the store.

import { setTimeout as sleep } from "node:timers/promises";
import {
  type FlowJob as BullFlow,
  FlowProducer,
  type Job,
  type JobsOptions,
  type Queue,
  UnrecoverableError,
  WaitingError,
  Worker,
} from "bullmq";
import { z } from "zod";
import { ReadMeError, type TaskFlow } from "@readme-moe/core";
import {
  addressOf,
  type Connection,
  type ConnectionLimits,
  type FleetAddress,
  openConnection,
  unreachable,
  type FleetPlace,
} from "./connect.ts";
import { type LockTimes, openQueue, workerOptions } from "./job-queues.ts";
import { QUEUE_PREFIX, queueName } from "./keys.ts";

/** Options of `FlowCoordinator.open`. */
export interface FlowCoordinatorOptions extends FleetPlace {
  /** Called when tasks have waited for this long and no machine runs any. */
  readonly onIdle?: (() => void) | undefined;
  /** Time between two looks at a flow. @default 250 */
  readonly pollMs?: number | undefined;
}

const POLL_MS = 250;
const IDLE_MS = 10_000;
/** Attempts at a task whose machine met a failure, such as a full disk. */
const [ATTEMPTS, RETRY_MS] = [3, 1000] as const;
/** Failed jobs are kept for their reasons. */
const FAILED_SECONDS = 86_400;

/** Gives tasks to the machines of a fleet, and waits for their results. */
export class FlowCoordinator {
  readonly #options: FlowCoordinatorOptions;
  readonly #connection: Connection;
  readonly #address: FleetAddress;
  #idleSinceMs: number | undefined;

  private constructor(options: FlowCoordinatorOptions, address: FleetAddress) {
    this.#options = options;
    this.#address = address;
    this.#connection = openConnection(address, options.onError, FLOW_LIMITS);
  }

  /**
   * Opens a coordinator.
   *
   * @throws {TypeError | RangeError} on a wrong URL
   * @throws {ReadMeError} `ERR_FLEET_UNREACHABLE`
   */
  static async open(options: FlowCoordinatorOptions): Promise<FlowCoordinator> {
    const { fleet } = options;
    const address = addressOf(fleet);
    const probe = openConnection(address);
    try {
      await probe.redis.ping();
    } catch (error) {
      throw unreachable(address, "tasks", error);
    } finally {
      probe.close();
    }
    return new FlowCoordinator(options, address);
  }

  /**
   * Runs a flow to its end, through any failure of machines and connections.
   *
   * @throws {ReadMeError} `ERR_ENGINE_FAILED` with the reason of a task that failed on every attempt
   */
  async run(flow: TaskFlow): Promise<void> {
    for (;;) {
      try {
        return await this.#runOnce(flow);
      } catch (error) {
        const isFinal = error instanceof ReadMeError || error instanceof TypeError || error instanceof RangeError;
        flow.signal?.throwIfAborted();
        if (isFinal) throw error;
        this.#options.onError?.(unreachable(this.#address, "tasks", error));
        await sleep(RETRY_MS, undefined, { signal: flow.signal });
      }
    }
  }

  async close(): Promise<void> {
    this.#connection.close();
  }

  async #runOnce(flow: TaskFlow): Promise<void> {
    const { redis } = this.#connection;
    const queue = openQueue(flowQueueName(flow.machines), redis);
    const producer = new FlowProducer({ connection: redis, prefix: QUEUE_PREFIX, skipVersionCheck: true });
    producer.on("error", () => undefined);
    try {
      await removeFailed(queue, flow);
      while (!(await this.#isOver(queue, producer, flow))) {
        await sleep(this.#options.pollMs ?? POLL_MS, undefined, { signal: flow.signal });
      }
    } finally {
      await Promise.allSettled([queue.close(), producer.close()]);
    }
  }

  /** Looks at a flow; adds it when it is not there. */
  async #isOver(queue: Queue, producer: FlowProducer, flow: TaskFlow): Promise<boolean> {
    flow.signal?.throwIfAborted();
    if (!(await hasJobs(queue, flow))) {
      if (await flow.isDone()) return true;
      await producer.addBulk(bullFlows(flow));
    }
    await this.#watchIdle(queue);
    return false;
  }

  async #watchIdle(queue: Queue): Promise<void> {
    const nowMs = performance.now();
    if ((await queue.getActiveCount()) > 0) {
      this.#idleSinceMs = undefined;
      return;
    }
    this.#idleSinceMs ??= nowMs;
    if (nowMs - this.#idleSinceMs < IDLE_MS) return;
    this.#idleSinceMs = nowMs;
    this.#options.onIdle?.();
  }
}

/** Tells whether a job that the flow ends with is in the queue. @throws {ReadMeError} when one has failed */
async function hasJobs(queue: Queue, flow: TaskFlow): Promise<boolean> {
  const { plan, tasks, last } = flow;
  for (const task of last === undefined ? tasks : [last]) {
    const state = await queue.getJobState(flowJobId(plan, task));
    if (state === "failed") throw await failureOf(queue, flow);
    if (state !== "unknown" && state !== "completed") return true;
  }
  return false;
}

function bullFlows({ machines, plan, tasks, last }: TaskFlow): BullFlow[] {
  const job = (task: string, more: JobsOptions = {}): Omit<BullFlow, "children"> => ({
    name: "task",
    queueName: flowQueueName(machines),
    data: { version: 1, plan, task } satisfies FlowJob,
    opts: {
      jobId: flowJobId(plan, task),
      attempts: ATTEMPTS,
      backoff: { type: "fixed", delay: RETRY_MS },
      removeOnComplete: true,
      removeOnFail: { age: FAILED_SECONDS },
      ...more,
    },
  });
  if (last === undefined) return tasks.map((task) => job(task));
  return [{ ...job(last), children: tasks.map((task) => job(task, { failParentOnFailure: true })) }];
}

/** Removes the failures of an earlier coordinator: adding their jobs would do nothing. */
async function removeFailed(queue: Queue, flow: TaskFlow): Promise<void> {
  for (const task of allTasks(flow)) {
    const id = flowJobId(flow.plan, task);
    if ((await queue.getJobState(id)) === "failed") await queue.remove(id, { removeChildren: false });
  }
}

async function failureOf(queue: Queue, flow: TaskFlow): Promise<ReadMeError> {
  for (const task of allTasks(flow)) {
    const job = await queue.getJob(flowJobId(flow.plan, task));
    if (job?.failedReason && (await job.isFailed())) {
      return new ReadMeError("ERR_ENGINE_FAILED", `A machine failed at the task ${task}: ${job.failedReason}`);
    }
  }
  return new ReadMeError("ERR_ENGINE_FAILED", "A machine failed at a task");
}

function allTasks({ tasks, last }: TaskFlow): readonly string[] {
  return last === undefined ? tasks : [...tasks, last];
}

// A job of a flow: a task as plain data. It names a hash and a task, never a file or a module.

const HASH = /^[0-9a-f]{64}$/;
const TASK = /^[a-z0-9-]{1,64}$/;

const flowJobSchema = z.strictObject({
  version: z.literal(1),
  /** Hash of the plan that the task belongs to. */
  plan: z.string().regex(HASH),
  task: z.string().regex(TASK),
});

type FlowJob = z.infer<typeof flowJobSchema>;

/** Reads a job of the queue. @throws {TypeError} on what no coordinator writes; the message quotes nothing of it */
function readFlowJob(data: unknown): FlowJob {
  const parsed = flowJobSchema.safeParse(data);
  if (parsed.success) return parsed.data;
  throw new TypeError("Expected a job of a coordinator, got another");
}

/** Returns the id of a task's job: who adds it again finds the job that is there. */
function flowJobId(plan: string, task: string): string {
  return `${plan}-${task}`;
}

// The queue of tasks of machines whose results are the same, and its times.

/** Name behind the machines' hash, where the queues of requests have an expert. */
const TASKS = "tasks";

/** Returns the name of a queue. @param machines - see `TaskFlow` */
function flowQueueName(machines: string): string {
  return queueName(machines, TASKS);
}

/**
 * Limits of connections. A product of large matrices blocks the thread for many seconds, in which answers wait to be
 * read; and a worker's connection waits for jobs for ten seconds.
 */
const FLOW_LIMITS: ConnectionLimits = { commandMs: 60_000, silentMs: 60_000 };

// Takes tasks of flows from the queue of its machines.

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
      ...workerOptions(this.#connection.redis, lockTimes),
      concurrency: 1,
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
