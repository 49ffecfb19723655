export { describeAddress, parseFleetUrl, type FleetAddress, type HostPort } from "./connection/address.ts";
export type { ConnectionLimits } from "./connection/connect.ts";
export type { FleetMemberOptions, FleetPlace } from "./connection/options.ts";
export { FleetEngine } from "./front/fleet-engine.ts";
export type { FleetEngineOptions } from "./front/options.ts";
export {
  openSharedLimits,
  type LimitUnit,
  type SharedLimits,
  type SharedLimitsOptions,
} from "./front/shared-limits.ts";
export type { LockTimes } from "./queue/job-queues.ts";
export { readFleetStatus, type FleetStatus, type FrontStatus, type QueueStatus } from "./status.ts";
export type { VersionStatus } from "./versions.ts";
export { FleetWorker } from "./worker/fleet-worker.ts";
export type { FleetWorkerOptions } from "./worker/options.ts";
export type { PublishedWorker, WorkerCounters } from "./worker/state.ts";
export { FlowCoordinator, type FlowCoordinatorOptions } from "./flow/flow-coordinator.ts";
export { FlowWorker, type FlowWorkerOptions } from "./flow/flow-worker.ts";
