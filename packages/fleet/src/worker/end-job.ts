// The end of a job in its queue.

import { setTimeout as sleep } from "node:timers/promises";
import type { JobTaker, TakenJob } from "../queue/job-queues.ts";
import type { JobEnd } from "./running-job.ts";

const RETRY_MS = 200;

/** Removes a job that has ended, or gives it back. One that another worker has taken is not touched. */
export async function endJob(
  taken: TakenJob,
  end: JobEnd,
  taker: Pick<JobTaker, "complete" | "giveBack">,
): Promise<void> {
  if (end === "answered" || end === "cancelled") await insist(() => taker.complete(taken));
  if (end === "released") await insist(() => taker.giveBack(taken));
}

/** Changes a job in its queue. Tries twice, since an answer may be lost; a job that is gone needs nothing. */
async function insist(change: () => Promise<void>): Promise<void> {
  try {
    await change();
  } catch {
    await sleep(RETRY_MS, undefined, { ref: false });
    await change().catch((error: unknown) => {
      if (!isGone(error)) throw error;
    });
  }
}

/** Tells whether BullMQ says that a job, or this worker's lock of it, is not there. */
function isGone(error: unknown): boolean {
  return error instanceof Error && /^Missing (key|lock) for job/.test(error.message);
}
