export { describeAddress, parseFleetUrl, type FleetAddress, type HostPort } from "./connection/address.ts";
export type { ConnectionLimits } from "./connection/connect.ts";
export { FleetEngine, type FleetEngineOptions } from "./front/fleet-engine.ts";
export type { LockTimes } from "./queue/job-queues.ts";
export { readFleetStatus, type FleetStatus, type QueueStatus } from "./status.ts";
export { FleetWorker, type FleetWorkerOptions } from "./worker/fleet-worker.ts";
export type { PublishedWorker, WorkerCounters } from "./worker/state.ts";
export { FlowCoordinator, type FlowCoordinatorOptions } from "./flow/flow-coordinator.ts";
export { FlowWorker, type FlowWorkerOptions } from "./flow/flow-worker.ts";
