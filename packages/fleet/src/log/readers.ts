// Readers of a request's log: one front at a time, the one that its client was last connected to.

import { z } from "zod";
import { jobOfKey, requestKeys } from "../keys.ts";
import type { QueuePlace } from "../queue/job-queues.ts";
import { RUNNING_TTL_MS, type ScriptedRedis } from "./scripts.ts";

/** A request as another front needs it to follow its answer. */
export interface FollowableRequest {
  readonly jobId: string;
  readonly numChoices: number;
  readonly promptTokens: number;
  readonly place: QueuePlace;
}

/** A request, its client and its reader. */
export interface ReadRequest extends FollowableRequest {
  readonly client: string;
  readonly reader: string;
}

/** Notes what another front needs to follow a request, and who reads it now. */
export async function noteReader(redis: ScriptedRedis, requestId: string, request: ReadRequest): Promise<void> {
  const { jobId, numChoices: choices, promptTokens, client, reader, place } = request;
  const { meta } = requestKeys(jobId);
  const { modelVersion: version, affinity } = place;
  const fields = { choices, promptTokens, client, reader, version, affinity };
  const commands = redis.multi().hset(meta, fields).pexpire(meta, RUNNING_TTL_MS);
  await commands.set(jobOfKey(requestId), jobId, "PX", RUNNING_TTL_MS).exec();
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
  { client, reader }: Pick<ReadRequest, "client" | "reader">,
): Promise<FollowableRequest | undefined> {
  const jobId = await redis.get(jobOfKey(requestId));
  if (jobId === null) return undefined;
  const { meta, channel } = requestKeys(jobId);
  const parsed = replySchema.safeParse(await redis.fleetFollow(meta, client, reader, channel));
  if (!parsed.success) return undefined;
  const [numChoices, modelVersion, affinity, promptTokens] = parsed.data;
  return { jobId, numChoices, promptTokens, place: { modelVersion, affinity } };
}

/** Tells whether a message of a request's channel says that another reader follows it. */
export function namesOtherReader(message: string, reader: string): boolean {
  return message.startsWith("reader:") && message !== `reader:${reader}`;
}
