// Options of a worker.

import type { Engine } from "@readme-moe/core";
import type { FleetMemberOptions } from "../connection/options.ts";
import type { LockTimes } from "../job-queues.ts";

/** Options of `FleetWorker.open`. */
export interface FleetWorkerOptions extends FleetMemberOptions {
  /** Engine that answers the jobs. The caller disposes it after the worker. */
  readonly engine: Engine;
  /** Name in metrics and status. @default a random one */
  readonly id?: string | undefined;
  readonly lockTimes?: LockTimes | undefined;
}
