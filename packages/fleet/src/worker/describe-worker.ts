// The state of a worker, from what it holds.

import {
  type CostModel,
  DEFAULT_COST_MODEL,
  type EngineInfo,
  type EngineStats,
  type Homes,
  homesOf,
  NO_HOMES,
  smoothDemand,
} from "@readme-moe/core";
import { sharesOf } from "../affinity.ts";
import { completionTokens, type FleetJob } from "../job.ts";
import type { PublishedWorker, WorkerCounters } from "./state.ts";

export interface HeldJob {
  readonly affinity: string;
  readonly numSeqs: number;
  /** Shares of experts in its prompt; absent for a dense model. */
  readonly expertShares?: readonly number[] | undefined;
  /** Tokens of its prompts and longest completions. */
  readonly kvTokens: number;
}

export function placesOf(job: FleetJob, affinity: string, info: Pick<EngineInfo, "contextTokens">): HeldJob {
  return {
    affinity,
    numSeqs: job.params.n,
    expertShares: sharesOf(job.expertTokens),
    kvTokens: job.prompt.length + completionTokens(job, info),
  };
}

interface WorkerHoldings {
  readonly id: string;
  readonly promptVersion: string;
  readonly modelVersion: string;
  readonly info: Pick<EngineInfo, "precision" | "maxNumSeqs" | "kvCapacityTokens">;
  readonly publishedMs: number;
  readonly jobs: readonly HeldJob[];
  readonly measure: Omit<EngineMeasure, "observe" | "worked" | "ended">;
  readonly pulls: number;
  readonly counters: WorkerCounters;
  readonly isDraining: boolean;
  readonly homes: PublishedWorker["homes"];
}

export function describeWorker({ info, jobs, measure, ...rest }: WorkerHoldings): PublishedWorker {
  const { precision, maxNumSeqs, kvCapacityTokens } = info;
  const runningSeqs = jobs.reduce((sum, { numSeqs }) => sum + numSeqs, 0);
  const heldTokens = jobs.reduce((sum, { kvTokens }) => sum + kvTokens, 0);
  const runningByKey: Record<string, number> = {};
  for (const { affinity, numSeqs } of jobs) runningByKey[affinity] = (runningByKey[affinity] ?? 0) + numSeqs;
  const { cost, stepMs, stepsPerSeq, missingBytes, expertPlaces, prefixTokens, workByKey } = measure;
  return {
    ...rest,
    precision,
    maxNumSeqs,
    kvCapacityTokens,
    runningSeqs,
    runningByKey,
    ...sumShares(jobs),
    freeSeqs: rest.isDraining ? 0 : Math.max(0, maxNumSeqs - runningSeqs),
    // One job always fits: an engine computes again what it has no room for.
    freeKvTokens: jobs.length === 0 ? Number.MAX_SAFE_INTEGER : Math.max(0, kvCapacityTokens - heldTokens),
    missingBytes,
    expertPlaces,
    prefixTokens,
    workByKey,
    cost,
    stepMs,
    stepsPerSeq,
  };
}

/** Sums the shares of experts over sequences; nothing while no job has any. */
function sumShares(jobs: readonly HeldJob[]): Pick<PublishedWorker, "runningByExpert"> {
  const sums: number[] = [];
  for (const { expertShares = [], numSeqs } of jobs) {
    for (const [expert, share] of expertShares.entries()) sums[expert] = (sums[expert] ?? 0) + numSeqs * share;
  }
  return sums.length > 0 ? { runningByExpert: sums } : {};
}

// A worker's measurements of its engine, for predictions: pace of steps and jobs, costs, experts and prefixes.

const PACE_MEMORY = 0.7;

type Observed = Pick<EngineStats, "steps" | "cost" | "missingBytes" | "expertCache">;

/** Means over recent time, and the engine's state when it was last asked. */
export class EngineMeasure {
  cost: CostModel = DEFAULT_COST_MODEL;
  /** Mean time of a step while jobs run; 0 before the first. */
  stepMs = 0;
  /** Mean steps of a job; 0 before the first has ended. */
  stepsPerSeq = 0;
  /** Bytes of each expert that are not in memory; empty if all are. */
  missingBytes: readonly number[] = [];
  /** Number of experts that fit into memory. */
  expertPlaces = Infinity;
  /** Tokens generated between the last two observations, by the affinity of their job. */
  workByKey: Readonly<Record<string, number>> = {};
  readonly #prefixes = new CachedPrefixes();
  #work: Record<string, number> = {};
  #last: { readonly steps: number; readonly atMs: number; readonly numRunning: number } | undefined;

  get prefixTokens(): Readonly<Record<string, number>> {
    return this.#prefixes.tokens;
  }

  /** @param stats - of the engine now. @param numRunning - jobs that run now */
  observe(stats: Observed, numRunning: number, atMs: number): void {
    const { steps, cost, missingBytes = [], expertCache } = stats;
    [this.workByKey, this.#work] = [this.#work, {}];
    this.cost = cost ?? DEFAULT_COST_MODEL;
    this.missingBytes = missingBytes;
    const expertBytes = expertCache?.layerBytes.reduce((sum, bytes) => sum + bytes, 0) ?? 0;
    this.expertPlaces = expertCache && missingBytes.length > 0 ? expertCache.budgetBytes / expertBytes : Infinity;
    const last = this.#last;
    this.#last = { steps, atMs, numRunning };
    if (!last || last.numRunning === 0 || numRunning === 0 || steps <= last.steps) return;
    const stepMs = (atMs - last.atMs) / (steps - last.steps);
    this.stepMs = this.stepMs === 0 ? stepMs : PACE_MEMORY * this.stepMs + (1 - PACE_MEMORY) * stepMs;
  }

  /** Takes tokens of a job into account. */
  worked(affinity: string, numTokens: number): void {
    this.#work[affinity] = (this.#work[affinity] ?? 0) + numTokens;
  }

  /** Takes a job that has ended into account. */
  ended({ affinity, steps, cachedTokens }: EndedJob): void {
    this.stepsPerSeq = this.stepsPerSeq === 0 ? steps : PACE_MEMORY * this.stepsPerSeq + (1 - PACE_MEMORY) * steps;
    this.#prefixes.ended(affinity, cachedTokens);
  }
}

interface EndedJob {
  readonly affinity: string;
  /** Steps that it took: tokens of a choice here, on average. */
  readonly steps: number;
  /** Tokens of the prompt that were in the prefix cache. */
  readonly cachedTokens: number;
}

// Prompt tokens that a worker's prefix cache is likely to have, by affinity, from the jobs that have ended there.

/** Weight of what was known before; a job that found nothing halves it. */
const PREFIX_MEMORY = 0.5;

/** Means over recent jobs. */
class CachedPrefixes {
  readonly #tokens = new Map<string, number>();

  /** Tokens by affinity; those without any are left out. */
  get tokens(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#tokens);
  }

  /** @param cachedTokens - prompt tokens that a job had not to compute */
  ended(affinity: string, cachedTokens: number): void {
    const known = this.#tokens.get(affinity);
    const mean = known === undefined ? cachedTokens : PREFIX_MEMORY * known + (1 - PREFIX_MEMORY) * cachedTokens;
    if (mean < 1) this.#tokens.delete(affinity);
    else this.#tokens.set(affinity, mean);
  }
}

// The homes of affinities as a worker sees them, from what all workers publish.

/** Demand of a minute ago counts a quarter. */
const HALF_LIFE_MS = 30_000;

/** Parts of a published state that homes are made of. */
export type HomeMember = Pick<PublishedWorker, "id" | "isDraining" | "maxNumSeqs" | "workByKey" | "homes">;

/** Keeps homes that move slowly. The worker with the first id decides, and the others take its homes over. */
export class HomeKeeper {
  #demand: Readonly<Record<string, number>> = {};
  #homes: Homes = NO_HOMES;

  get homes(): Homes {
    return this.#homes;
  }

  /**
   * @param ownId - id of this worker
   * @param workers - all workers of one model version
   * @param elapsedMs - time since the call before
   */
  observe(ownId: string, workers: readonly HomeMember[], elapsedMs: number): void {
    const work: Record<string, number> = {};
    for (const { workByKey } of workers) {
      for (const [key, tokens] of Object.entries(workByKey)) work[key] = (work[key] ?? 0) + tokens;
    }
    this.#demand = smoothDemand(this.#demand, work, { elapsedMs, halfLifeMs: HALF_LIFE_MS });
    const taking = workers.filter(({ isDraining, maxNumSeqs }) => !isDraining && maxNumSeqs > 0);
    // Each with homes of its own, workers would wait for each other, or all take the same jobs.
    const first = taking.toSorted((a, b) => (a.id < b.id ? -1 : 1))[0];
    if (first && first.id !== ownId) {
      this.#homes = { byKey: first.homes };
      return;
    }
    const members = taking.map(({ id, maxNumSeqs }) => ({ id, capacity: maxNumSeqs }));
    this.#homes = homesOf({ demand: this.#demand, members, previous: this.#homes });
  }
}
