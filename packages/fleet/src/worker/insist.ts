import { setTimeout as sleep } from "node:timers/promises";

const RETRY_MS = 200;

/** Changes a job in its queue. Tries twice, since an answer may be lost; a job that is gone needs nothing. */
export async function insist(change: () => Promise<void>): Promise<void> {
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
