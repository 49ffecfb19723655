// Adds flows of tasks, and waits for their ends. It keeps no state: one that is started again finds its jobs in the
// queue, and the results of those that have ended in the store.

import { setTimeout as sleep } from "node:timers/promises";
import type { TaskFlow } from "@readme-moe/core";
import { ReadMeError } from "@readme-moe/core";
import { FlowProducer, Queue, type FlowJob as BullFlow, type JobsOptions } from "bullmq";
import { addressOf, type FleetAddress } from "../connection/address.ts";
import { openConnection, type Connection } from "../connection/connect.ts";
import type { FleetPlace } from "../connection/options.ts";
import { unreachable } from "../connection/errors.ts";
import { flowJobId, type FlowJob } from "./flow-job.ts";
import { FLOW_LIMITS, FLOW_OPTIONS, flowQueueName } from "./flow-queue.ts";

/** Options of `FlowCoordinator.open`. */
export interface FlowCoordinatorOptions extends FleetPlace {
  /** Called when tasks have waited for this long and no machine runs any. */
  readonly onIdle?: (() => void) | undefined;
  /** Time between two looks at a flow. @default 250 */
  readonly pollMs?: number | undefined;
}

const POLL_MS = 250;
const IDLE_MS = 10_000;
/** Entries of the queue's stream of events, which nobody reads. */
const MAX_EVENTS = 100;
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
    const options = { ...FLOW_OPTIONS, connection: this.#connection.redis };
    const queue = new Queue(flowQueueName(flow.machines), { ...options, streams: { events: { maxLen: MAX_EVENTS } } });
    const producer = new FlowProducer(options);
    // Commands report their own failures, and the connection its.
    queue.on("error", () => undefined);
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
