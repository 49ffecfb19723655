// The end of a job in its queue.

import type { JobTaker, TakenJob } from "../queue/job-queues.ts";
import { insist } from "./insist.ts";
import type { JobEnd } from "./running-job.ts";

/** Removes a job that has ended, or gives it back. One that another worker has taken is not touched. */
export async function endJob(
  taken: TakenJob,
  end: JobEnd,
  taker: Pick<JobTaker, "complete" | "giveBack">,
): Promise<void> {
  if (end === "answered" || end === "cancelled") await insist(() => taker.complete(taken));
  if (end === "released") await insist(() => taker.giveBack(taken));
}
