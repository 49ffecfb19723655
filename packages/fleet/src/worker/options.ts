// Options of a worker.

import type { Engine } from "@readme-moe/core";
import type { FleetAddress } from "../connection/address.ts";
import type { ConnectionLimits } from "../connection/connect.ts";
import type { LockTimes } from "../queue/job-queues.ts";

/** Options of `FleetWorker.open`. */
export interface FleetWorkerOptions {
  /** URL of the fleet's Valkey or Redis. */
  readonly fleet: string | FleetAddress;
  /** Engine that answers the jobs. The caller disposes it after the worker. */
  readonly engine: Engine;
  /** Name in metrics and status. @default a random one */
  readonly id?: string | undefined;
  readonly lockTimes?: LockTimes | undefined;
  readonly limits?: ConnectionLimits | undefined;
  /** Called with each failure that the worker goes on after. Without secrets. */
  readonly onError?: ((error: Error) => void) | undefined;
}
