// A job of a flow: a task as plain data. It names a hash and a task, never a file or a module.

import { z } from "zod";

const HASH = /^[0-9a-f]{64}$/;
const TASK = /^[a-z0-9-]{1,64}$/;

const flowJobSchema = z.strictObject({
  version: z.literal(1),
  /** Hash of the plan that the task belongs to. */
  plan: z.string().regex(HASH),
  /** Name of the task. */
  task: z.string().regex(TASK),
});

export type FlowJob = z.infer<typeof flowJobSchema>;

/** Reads a job of the queue. @throws {TypeError} on what no coordinator writes; the message quotes nothing of it */
export function readFlowJob(data: unknown): FlowJob {
  const parsed = flowJobSchema.safeParse(data);
  if (parsed.success) return parsed.data;
  throw new TypeError("Expected a job of a coordinator, got another");
}

/** Returns the id of a task's job: who adds it again finds the job that is there. */
export function flowJobId(plan: string, task: string): string {
  return `${plan}-${task}`;
}
