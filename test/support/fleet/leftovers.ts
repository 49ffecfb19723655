// Keys that a fleet leaves in its Valkey when it has nothing to do.

import type { Redis } from "ioredis";
import { PREFIX, QUEUE_PREFIX, WORKERS_KEY } from "../../../packages/fleet/src/keys.ts";

/** Keys of a queue that stay: counters, events, and settings. */
const QUEUE_KEYS = /:(id|meta|events|marker|stalled|stalled-check|pc)$/;

/** Lists keys of jobs that were not removed, and keys that never expire; logs of answers expire. */
export async function leftovers(redis: Redis): Promise<readonly string[]> {
  const keys = await redis.keys(`${PREFIX}*`);
  const lasting = await Promise.all(keys.map(async (key) => (await redis.pttl(key)) === -1));
  return keys.filter((key, index) => {
    if (key.startsWith(`${QUEUE_PREFIX}:`)) return !QUEUE_KEYS.test(key);
    return lasting[index] === true && key !== WORKERS_KEY;
  });
}
