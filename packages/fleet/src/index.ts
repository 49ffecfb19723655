export { type ConnectionLimits, describeAddress, type FleetAddress, type HostPort, parseFleetUrl } from "./connect.ts";
export type { FleetMemberOptions, FleetPlace } from "./connect.ts";
export { openBatchQueue, type BatchQueue, type BatchQueueOptions } from "./front/batch-queue.ts";
export { FleetEngine } from "./front/fleet-engine.ts";
export type { FleetEngineOptions } from "./front/fleet-engine.ts";
export {
  openSharedLimits,
  type LimitUnit,
  type SharedLimits,
  type SharedLimitsOptions,
} from "./front/shared-limits.ts";
export type { LockTimes } from "./job-queues.ts";
export { type FleetStatus, type FrontStatus, type QueueStatus, readFleetStatus, type VersionStatus } from "./status.ts";
export { FleetWorker } from "./worker/fleet-worker.ts";
export type { FleetWorkerOptions } from "./worker/fleet-worker.ts";
export type { PublishedWorker, WorkerCounters } from "./worker/state.ts";
export { FlowCoordinator, type FlowCoordinatorOptions, FlowWorker, type FlowWorkerOptions } from "./flow.ts";
