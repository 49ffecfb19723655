// Status of a fleet, for people and for monitoring.

import type { QueueState } from "@readme-moe/core";
import { addressOf, describeAddress, type FleetAddress, openConnection, unreachable } from "./connect.ts";
import { FRONT_PREFIX, QUEUE_PREFIX } from "./keys.ts";
import { type ScriptedRedis, withScripts } from "./log/scripts.ts";
import { type PublishedWorker, readWorkers } from "./worker/state.ts";

/** Jobs of a queue. */
export interface QueueStatus extends Pick<QueueState, "modelVersion" | "key" | "waiting"> {
  /** Jobs that workers run. */
  readonly running: number;
}

/** A front that takes requests. */
export interface FrontStatus {
  readonly id: string;
  /** Version of its prompts; requests go to workers with the same one. */
  readonly promptVersion: string;
}

/** A fleet at a time. */
export interface FleetStatus {
  /** Address of its Valkey or Redis, without secrets. */
  readonly address: string;
  /** Versions of the model, the one with most places first. */
  readonly versions: readonly VersionStatus[];
  readonly workers: readonly PublishedWorker[];
  readonly fronts: readonly FrontStatus[];
  /** Queues with jobs. */
  readonly queues: readonly QueueStatus[];
}

/**
 * Reads what a fleet does now.
 *
 * @throws {TypeError | RangeError} on a wrong URL
 * @throws {ReadMeError} `ERR_FLEET_UNREACHABLE`
 */
export async function readFleetStatus(fleet: string | FleetAddress): Promise<FleetStatus> {
  const address = addressOf(fleet);
  const { redis, close } = openConnection(address);
  try {
    return await statusOf(withScripts(redis), address);
  } catch (error) {
    throw unreachable(address, "status", error);
  } finally {
    close();
  }
}

/** Reads what the fleet behind a connection does now. */
export async function statusOf(redis: ScriptedRedis, address: FleetAddress): Promise<FleetStatus> {
  const [workers, fronts, queues] = await Promise.all([readWorkers(redis), readFronts(redis), readQueues(redis)]);
  return { address: describeAddress(address), versions: versionsOf(workers, queues), workers, fronts, queues };
}

/** Finds the fronts by the channels that they listen to. Names that no front has are left out. */
async function readFronts(redis: ScriptedRedis): Promise<readonly FrontStatus[]> {
  const channels = (await redis.pubsub("CHANNELS", `${FRONT_PREFIX}*`)) as readonly string[];
  const fronts = channels.flatMap((channel): FrontStatus[] => {
    const [, promptVersion, id] = /^([0-9a-f]{64})\.([0-9a-f-]{36})$/.exec(channel.slice(FRONT_PREFIX.length)) ?? [];
    return promptVersion === undefined || id === undefined ? [] : [{ id, promptVersion }];
  });
  return fronts.toSorted((a, b) => (a.id < b.id ? -1 : 1));
}

/** Finds the queues with jobs; those of versions without workers, too. */
async function readQueues(redis: ScriptedRedis): Promise<readonly QueueStatus[]> {
  const names = new Set<string>();
  for await (const keys of redis.scanStream({ match: `${QUEUE_PREFIX}:*:meta`, count: 1000 })) {
    for (const key of keys as readonly string[]) names.add(key.slice(0, -":meta".length));
  }
  const queues = await Promise.all(
    Array.from(names, async (name) => {
      const [waiting, ranked, running] = await Promise.all([
        redis.llen(`${name}:wait`),
        redis.zcard(`${name}:prioritized`),
        redis.llen(`${name}:active`),
      ]);
      const [modelVersion = "", key = ""] = name.slice(QUEUE_PREFIX.length + 1).split(".");
      return { modelVersion, key, waiting: waiting + ranked, running };
    }),
  );
  return queues.filter(({ waiting, running }) => waiting + running > 0);
}

// The model versions of a fleet, while workers change from one to another.

/** A model version: its workers, and its requests. */
export interface VersionStatus {
  readonly modelVersion: string;
  readonly workers: number;
  /** Workers that drain. */
  readonly draining: number;
  /** Places of the other workers; fronts send new requests to the version with most. */
  readonly places: number;
  readonly running: number;
  readonly waiting: number;
}

/** Sums workers and queues by model version, the one with most places first. */
export function versionsOf(
  workers: readonly Pick<PublishedWorker, "modelVersion" | "maxNumSeqs" | "isDraining" | "runningSeqs">[],
  queues: readonly { readonly modelVersion: string; readonly waiting: number }[],
): readonly VersionStatus[] {
  const names = [...new Set([...workers, ...queues].map(({ modelVersion }) => modelVersion))];
  const versions = names.map((modelVersion): VersionStatus => {
    const own = workers.filter((worker) => worker.modelVersion === modelVersion);
    const taking = own.filter(({ isDraining }) => !isDraining);
    return {
      modelVersion,
      workers: own.length,
      draining: own.length - taking.length,
      places: taking.reduce((sum, { maxNumSeqs }) => sum + maxNumSeqs, 0),
      running: own.reduce((sum, { runningSeqs }) => sum + runningSeqs, 0),
      waiting: queues.reduce((sum, queue) => sum + (queue.modelVersion === modelVersion ? queue.waiting : 0), 0),
    };
  });
  return versions.toSorted((a, b) => b.places - a.places || (a.modelVersion < b.modelVersion ? -1 : 1));
}
