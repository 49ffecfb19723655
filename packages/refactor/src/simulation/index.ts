// Servers, mixtures and fleets without a model: traces are drawn, read, scheduled and replayed.

export {
  generateMixtureTrace,
  generateTrace,
  type GeneratedMixtureOptions,
  type GeneratedTraceOptions,
} from "./generate-trace.ts";
export {
  isMixtureTrace,
  preGatedTrace,
  readMixtureTrace,
  readTrace,
  writeMixtureTrace,
  type MixtureSequence,
  type MixtureTrace,
} from "./read-trace.ts";
export {
  cacheBounds,
  hitRatio,
  replayLayer,
  replayRecorded,
  replaySteps,
  replayUnits,
  unitRequests,
  type CacheBounds,
  type RecordedStep,
  type UnitReplay,
} from "./replay.ts";
export {
  ROUTE_KNOWLEDGE,
  simulate,
  simulateMixture,
  type MixtureSimulationOptions,
  type MixtureSimulationResult,
  type RouteKnowledge,
  type SimulationFigures,
  type SimulationOptions,
  type SimulationResult,
} from "./simulate.ts";
export type { ServerOptions, Spread } from "./serve.ts";
export { generateFleetLoad, keepOf, mainShares, type FleetJob, type FleetLoadOptions } from "./fleet-load.ts";
export type { FleetResult } from "./fleet-record.ts";
export type { FleetWorkerOptions } from "./fleet-worker.ts";
export { simulateFleet, type FleetFault, type FleetOptions, type FleetPlacement } from "./simulate-fleet.ts";
export { PUSH_PLACEMENTS, type PushPlacementName, type PushTarget } from "./push-placements.ts";
