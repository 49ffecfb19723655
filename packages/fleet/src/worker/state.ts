// State that a worker publishes each second, and that others read.

import { coefficientsOf, type Homes, type WorkerState } from "@readme-moe/core";
import { z } from "zod";
import { workerKey, WORKERS_KEY } from "../keys.ts";
import type { ScriptedRedis } from "../log/scripts.ts";

const count = z.number().nonnegative();

const costSchema = z.strictObject({
  fixedMs: count,
  msPerToken: count,
  msPerExpert: count,
  msPerCachedToken: count,
  loadMsPerByte: count,
});

const stateSchema = z.strictObject({
  id: z.string().max(128),
  /** Version of what turns prompts into tokens and experts. */
  promptVersion: z.string().max(128),
  modelVersion: z.string().max(128),
  precision: z.string().max(32),
  maxNumSeqs: count,
  kvCapacityTokens: count,
  publishedMs: z.number(),
  runningSeqs: count,
  runningByKey: z.record(z.string().max(32), count),
  runningByExpert: z.array(count).max(65_536).exactOptional(),
  freeSeqs: count,
  freeKvTokens: count,
  missingBytes: z.array(count).max(65_536),
  /** `null` stands for `Infinity`, which JSON does not have. */
  expertPlaces: z.number().min(0).nullable(),
  prefixTokens: z.record(z.string().max(32), count),
  /** Tokens that it generated between its last two states, by affinity. */
  workByKey: z.record(z.string().max(32), count),
  homes: z.record(
    z.string().max(32),
    z.array(z.strictObject({ workerId: z.string().max(128), share: count })).max(1024),
  ),
  cost: costSchema,
  stepMs: count,
  stepsPerSeq: count,
  pulls: count,
  /** Counters since the worker began. */
  counters: z.strictObject({
    answered: count,
    cancelled: count,
    released: count,
    foreign: count,
    different: count,
    resumed: count,
    tokens: count,
    refused: count,
  }),
  isDraining: z.boolean(),
});

type Published = z.infer<typeof stateSchema>;

/** Counters of a worker since it began, in jobs and tokens. */
export type WorkerCounters = Published["counters"];

/** A worker as others see it. */
export interface PublishedWorker extends WorkerState, Omit<Published, keyof WorkerState | "homes"> {
  /** Homes as it sees them. */
  readonly homes: Homes["byKey"];
}

export function newCounters(): { -readonly [Name in keyof WorkerCounters]: number } {
  return { answered: 0, cancelled: 0, released: 0, foreign: 0, different: 0, resumed: 0, tokens: 0, refused: 0 };
}

/** Time that a state lives without a new one. */
const STATE_TTL_MS = 3000;

export async function publishState(redis: ScriptedRedis, state: PublishedWorker): Promise<void> {
  const { missingBytes, cost, ...others } = state;
  const text = JSON.stringify({ ...others, missingBytes: Array.from(missingBytes), cost: coefficientsOf(cost) });
  await redis.set(workerKey(state.id), text, "PX", STATE_TTL_MS);
  await redis.sadd(WORKERS_KEY, state.id);
}

/** Removes a worker that ends. */
export async function withdrawState(redis: ScriptedRedis, workerId: string): Promise<void> {
  await redis.del(workerKey(workerId));
  await redis.srem(WORKERS_KEY, workerId);
}

/** Reads the workers that live, of all model versions. Forgets those that are gone. */
export async function readWorkers(redis: ScriptedRedis): Promise<readonly PublishedWorker[]> {
  const ids = await redis.smembers(WORKERS_KEY);
  if (ids.length === 0) return [];
  const texts = await redis.mget(ids.map(workerKey));
  const gone = ids.filter((_, index) => texts[index] === null);
  if (gone.length > 0) await redis.srem(WORKERS_KEY, ...gone);
  return texts.map(readState).filter((state) => state !== undefined);
}

function readState(text: string | null | undefined): PublishedWorker | undefined {
  if (text === null || text === undefined) return undefined;
  try {
    const parsed = stateSchema.safeParse(JSON.parse(text));
    if (!parsed.success) return undefined;
    return { ...parsed.data, expertPlaces: parsed.data.expertPlaces ?? Infinity };
  } catch {
    return undefined;
  }
}
