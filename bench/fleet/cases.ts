// Cases of the simulated fleet, and their figures over seeds.

import { costAware } from "@readme-moe/core";
import {
  generateFleetLoad,
  simulateFleet,
  type FleetFault,
  type FleetPlacement,
  type FleetResult,
  type FleetWorkerOptions,
} from "@readme-moe/refactor/simulation";
import { mean } from "../kit/statistics.ts";
import { type ModelProfile, type RouteProfile } from "./profiles.ts";

/** Placements by name; the last is ours. */
export const PLACEMENTS = {
  "round robin": { kind: "push", rule: "round-robin" },
  "least requests": { kind: "push", rule: "least-requests" },
  affinity: { kind: "push", rule: "affinity" },
  "bounded affinity": { kind: "push", rule: "bounded-affinity" },
  "oldest first": { kind: "oldest" },
  "read-me": { kind: "pull" },
} as const satisfies Readonly<Record<string, FleetPlacement>>;

export type PlacementName = keyof typeof PLACEMENTS;

/** A fleet and its load. */
export interface FleetCase {
  readonly model: ModelProfile;
  readonly routes: RouteProfile;
  readonly machines: number;
  /** Share of all experts' bytes that fit into a machine's memory. */
  readonly memory: number;
  readonly skew?: number | undefined;
  readonly shiftEveryMs?: number | undefined;
  readonly burst?: number | undefined;
  readonly faults?: readonly FleetFault[] | undefined;
}

export interface RunOptions {
  /** Jobs per second, as a share of what the machines can do with four experts in every step. */
  readonly load: number;
  readonly seed: number;
  readonly seconds: number;
}

const PLACES = 16;
const LAYERS = 4;
const [MEAN_PROMPT, MEAN_OUTPUT] = [64, 32];
const EXPERTS_OF_NOMINAL_STEP = 4;
const WARM_UP_SHARE = 0.2;

/** Runs one case with one placement and seed. */
export function runCase(fleet: FleetCase, placement: FleetPlacement, { load, seed, seconds }: RunOptions): FleetResult {
  const { model, routes, machines, faults, skew, shiftEveryMs, burst } = fleet;
  const jobsPerS = load * machines * nominalJobsPerS(model);
  const jobs = generateFleetLoad({
    ...routes,
    seed,
    jobsPerS,
    skew,
    shiftEveryMs,
    burst,
    numJobs: Math.ceil(jobsPerS * seconds),
    meanPromptTokens: MEAN_PROMPT,
    meanOutputTokens: MEAN_OUTPUT,
    firstTokenMs: model.firstTokenMs,
  });
  const countFromMs = WARM_UP_SHARE * seconds * 1000;
  const options = { numWorkers: machines, worker: workerOf(fleet), placement, perTokenMs: model.perTokenMs, seed };
  return simulateFleet(jobs, { ...options, countFromMs, faults });
}

/** Means of all figures over runs. */
export function meanResult(results: readonly FleetResult[]): Readonly<Record<string, number>> {
  const names = Object.keys(results[0] ?? {}) as (keyof FleetResult)[];
  const figures: Record<string, number> = {};
  for (const name of names) {
    if (name === "pulls") continue;
    figures[name] = mean(results.map((result) => result[name]));
  }
  for (const reason of ["home", "overdue", "stolen"] as const) {
    figures[reason] = mean(results.map(({ pulls }) => pulls[reason]));
  }
  return figures;
}

/** Jobs per second of a machine whose steps have all places and four experts, all of them in memory. */
function nominalJobsPerS({ cost }: ModelProfile): number {
  const { fixedMs, msPerToken, msPerExpert } = cost;
  const decodeMs = (MEAN_OUTPUT * (fixedMs + EXPERTS_OF_NOMINAL_STEP * msPerExpert)) / PLACES;
  return 1000 / ((MEAN_PROMPT + MEAN_OUTPUT) * msPerToken + decodeMs);
}

function workerOf({ model, routes, memory }: FleetCase): FleetWorkerOptions {
  const numExperts = routes.shares[0]?.length ?? 1;
  return {
    layout: { numExperts, layerBytes: Array.from({ length: LAYERS }, () => model.expertBytes / LAYERS) },
    budgetBytes: Math.ceil(memory * numExperts * model.expertBytes),
    cost: model.cost,
    scheduler: costAware(),
    limits: { maxNumBatchedSeqs: PLACES, maxNumBatchedTokens: 512, chunkTokens: 128 },
    maxNumSeqs: PLACES,
    kvTokens: PLACES * 2048,
  };
}
