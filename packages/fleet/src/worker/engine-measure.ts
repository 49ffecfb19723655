// A worker's measurements of its engine, for predictions: pace of steps and jobs, costs, experts and prefixes.

import { DEFAULT_COST_MODEL, type CostModel, type EngineStats } from "@readme-moe/core";
import { CachedPrefixes } from "./cached-prefixes.ts";

const MEMORY = 0.7;

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
    this.stepMs = this.stepMs === 0 ? stepMs : MEMORY * this.stepMs + (1 - MEMORY) * stepMs;
  }

  /** Takes tokens of a job into account. */
  worked(affinity: string, numTokens: number): void {
    this.#work[affinity] = (this.#work[affinity] ?? 0) + numTokens;
  }

  /** Takes a job that has ended into account. */
  ended({ affinity, steps, cachedTokens }: EndedJob): void {
    this.stepsPerSeq = this.stepsPerSeq === 0 ? steps : MEMORY * this.stepsPerSeq + (1 - MEMORY) * steps;
    this.#prefixes.ended(affinity, cachedTokens);
  }
}

/** A job that has ended on a worker. */
export interface EndedJob {
  readonly affinity: string;
  /** Steps that it took: tokens of a choice here, on average. */
  readonly steps: number;
  /** Tokens of the prompt that were in the prefix cache. */
  readonly cachedTokens: number;
}
