// The queue of tasks of machines whose results are the same, and its times.

import { queueName, QUEUE_PREFIX } from "../keys.ts";
import type { ConnectionLimits } from "../connection/connect.ts";

/** Name behind the machines' hash, where the queues of requests have an expert. */
const TASKS = "tasks";

/** Returns the name of a queue. @param machines - see `TaskFlow` */
export function flowQueueName(machines: string): string {
  return queueName(machines, TASKS);
}

/** Options that queue, producer and worker share. */
export const FLOW_OPTIONS = { prefix: QUEUE_PREFIX, skipVersionCheck: true } as const;

/**
 * Limits of connections. A product of large matrices blocks the thread for many seconds, in which answers wait to be
 * read; and a worker's connection waits for jobs for ten seconds.
 */
export const FLOW_LIMITS: ConnectionLimits = { commandMs: 60_000, silentMs: 60_000 };
