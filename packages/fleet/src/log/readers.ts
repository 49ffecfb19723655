// Readers of a request's log: one front at a time, the one that its client was last connected to.

import { z } from "zod";
import { FRONT_PREFIX, jobOfKey, requestKeys } from "../keys.ts";
import type { QueuePlace } from "../queue/job-queues.ts";
import type { ScriptedRedis } from "./scripts.ts";

/** A request as another front needs it to follow its answer. */
export interface FollowableRequest {
  readonly jobId: string;
  readonly numChoices: number;
  readonly promptTokens: number;
  readonly place: QueuePlace;
}

const count = z
  .string()
  .regex(/^\d{1,9}$/)
  .transform(Number);
const replySchema = z.tuple([count.pipe(z.number().min(1).max(128)), z.string(), z.string(), count]);

/**
 * Makes a reader the one that follows a request.
 *
 * @returns nothing for a request that is not there, was cancelled, or is another client's
 */
export async function takeOver(
  redis: ScriptedRedis,
  requestId: string,
  { client, reader }: { readonly client: string; readonly reader: string },
): Promise<FollowableRequest | undefined> {
  const jobId = await redis.get(jobOfKey(requestId));
  if (jobId === null) return undefined;
  const { meta } = requestKeys(jobId);
  const parsed = replySchema.safeParse(await redis.fleetFollow(meta, client, reader, FRONT_PREFIX, jobId));
  if (!parsed.success) return undefined;
  const [numChoices, modelVersion, affinity, promptTokens] = parsed.data;
  return { jobId, numChoices, promptTokens, place: { modelVersion, affinity } };
}
