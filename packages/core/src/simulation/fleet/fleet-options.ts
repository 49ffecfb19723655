// Options of a simulated fleet.

import type { PullOptions } from "../../placement/choose-pull.ts";
import type { HomesOptions, PushPlacementName } from "../../placement/homes.ts";
import type { FleetWorkerOptions } from "./fleet-worker.ts";

/** Rule that decides where a job runs. */
export type FleetPlacement =
  /** Workers pull by `choosePull`. */
  | { readonly kind: "pull"; readonly pull?: PullOptions | undefined; readonly homes?: HomesOptions | undefined }
  /** Workers pull the oldest job whenever they have room. */
  | { readonly kind: "oldest" }
  /** The front sends each job to a worker. */
  | { readonly kind: "push"; readonly rule: PushPlacementName };

/** Something that happens to a worker: `start` it, end it, or change its speed. */
export interface FleetFault {
  readonly atMs: number;
  /** Number of the worker, below `numWorkers`. */
  readonly worker: number;
  readonly kind: "die" | "start" | "slow";
  /** Factor of the time of steps, for `slow`. @default 1 */
  readonly slowdown?: number | undefined;
}

/** Options of `simulateFleet`. */
export interface FleetOptions {
  readonly numWorkers: number;
  readonly worker: FleetWorkerOptions;
  readonly placement: FleetPlacement;
  /** Longest mean time per token after the first, for an answer to be in time. */
  readonly perTokenMs: number;
  /** Whether fronts refuse jobs whose predicted wait exceeds their deadline. @default true */
  readonly admits?: boolean | undefined;
  /** @default none */
  readonly faults?: readonly FleetFault[] | undefined;
  /** Time between two published states of a worker, above 0. @default 1000 */
  readonly publishMs?: number | undefined;
  /** Jobs that arrive before this time are not counted. @default 0 */
  readonly countFromMs?: number | undefined;
  /** Seed of the order in which workers hear of a job. @default 0 */
  readonly seed?: number | undefined;
}
