// Status of a fleet, for people and for monitoring.

import type { QueueState } from "@readme-moe/core";
import { describeAddress, addressOf, type FleetAddress } from "./connection/address.ts";
import { openConnection } from "./connection/connect.ts";
import { unreachable } from "./connection/errors.ts";
import { FRONT_PREFIX, QUEUE_PREFIX } from "./keys.ts";
import { withScripts, type ScriptedRedis } from "./log/scripts.ts";
import { versionsOf, type VersionStatus } from "./versions.ts";
import { readWorkers, type PublishedWorker } from "./worker/state.ts";

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
