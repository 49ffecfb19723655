// Status of a fleet, for people and for monitoring.

import type { QueueState } from "@readme-moe/core";
import { describeAddress, parseFleetUrl, type FleetAddress } from "./connection/address.ts";
import { openConnection } from "./connection/connect.ts";
import { unreachable } from "./connection/errors.ts";
import { QUEUE_PREFIX } from "./keys.ts";
import { withScripts, type ScriptedRedis } from "./log/scripts.ts";
import { readWorkers, type PublishedWorker } from "./worker/state.ts";

/** Jobs of a queue. */
export interface QueueStatus extends Pick<QueueState, "modelVersion" | "key" | "waiting"> {
  /** Jobs that workers run. */
  readonly running: number;
}

/** A fleet at a time. */
export interface FleetStatus {
  /** Address of its Valkey or Redis, without secrets. */
  readonly address: string;
  readonly workers: readonly PublishedWorker[];
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
  const address = typeof fleet === "string" ? parseFleetUrl(fleet) : fleet;
  const { redis, close } = openConnection(address);
  try {
    const scripted = withScripts(redis);
    const workers = await readWorkers(scripted);
    return { address: describeAddress(address), workers, queues: await readQueues(scripted) };
  } catch (error) {
    throw unreachable(address, "status", error);
  } finally {
    close();
  }
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
