// Runs a trace against expert caches of several sizes and policies: scheduled anew, or step by step as it was recorded.

import { cacheBounds, hitRatio, replayLayer, replayRecorded, type CacheBounds, type RecordedStep } from "./replay.ts";
import {
  type CheckedOf,
  costAware,
  DEFAULT_COST_MODEL,
  type EvictionPolicyName,
  expertBytes,
  type ExpertCacheCounters,
  type ExpertLayout,
  type ExpertTrace,
  fcfs,
  readMe,
  resolveEvictionPolicy,
  type Scheduler,
  type TraceStep,
} from "@readme-moe/core";
import type { LabTable } from "../option-table.ts";
import { distinctExperts } from "./read-trace.ts";
import { simulate, type SimulationOptions, type SimulationResult } from "./simulate.ts";

/** `decode-first` and `prefill-first` are the baselines of Read-ME, section 5. */
export const SCHEDULER_NAMES = ["cost-aware", "read-me", "fcfs", "decode-first", "prefill-first"] as const;

/** One of `SCHEDULER_NAMES`. */
export type SchedulerName = (typeof SCHEDULER_NAMES)[number];

const SCHEDULERS: Readonly<Record<SchedulerName, Scheduler>> = {
  "cost-aware": costAware(),
  "read-me": readMe(),
  fcfs: fcfs(),
  "decode-first": fcfs({ prefillShare: 0 }),
  "prefill-first": fcfs({ prefillShare: 1 }),
};

/** Options of a drawn trace, which contradict a trace that is read. */
export const DRAWN_OPTIONS = {
  experts: { kind: "integer", min: 1, default: 7, about: "experts of the drawn trace" },
  layers: { kind: "integer", min: 1, default: 6, about: "layers of the drawn trace" },
  layerBytes: { kind: "integer", min: 1, default: 1_000_000, about: "size of one layer of one expert" },
  sequences: { kind: "integer", min: 1, default: 100, about: "sequences of the drawn trace" },
  arrivalsPerStep: {
    kind: "number",
    above: 0,
    default: 0.125,
    about: "mean number of sequences that arrive per step",
  },
  promptTokens: { kind: "number", min: 1, default: 64, about: "mean tokens of a prompt" },
  outputTokens: { kind: "number", min: 1, default: 32, about: "mean tokens of a completion" },
  locality: { kind: "number", max: 1, default: 0.9, about: "share of tokens that keep the expert before" },
  expertsPerToken: { kind: "integer", min: 1, about: "draw a mixture with a router in every layer" },
  coupling: {
    kind: "number",
    max: 1,
    default: 0.5,
    about: "share of a mixture's experts that follow the layer before",
  },
  skew: { kind: "number", max: 8, default: 0.5, about: "inequality of a mixture's experts, by Zipf's law" },
} as const satisfies LabTable;

/** Options of the simulated server, which a replay does not have. */
export const SERVER_OPTIONS = {
  maxNumSeqs: { kind: "integer", min: 1, default: 32, about: "sequences that hold KV memory" },
  maxNumBatchedSeqs: {
    kind: "integer",
    min: 1,
    about: "sequences in one step",
    otherwise: "all that hold memory",
  },
  maxNumBatchedTokens: { kind: "integer", min: 1, default: 512, about: "tokens in one step" },
  chunkTokens: { kind: "integer", min: 1, default: 128, about: "tokens in one piece of prefill" },
  readMbPerS: { kind: "number", above: 0, default: 1000, about: "speed of reading experts" },
  overlap: { kind: "switch", default: true, about: "compute nothing while experts are read" },
} as const satisfies LabTable;

export interface SimulateFlags extends CheckedOf<typeof DRAWN_OPTIONS & typeof SERVER_OPTIONS> {
  readonly trace?: string;
  readonly seed: number;
  /** Whether the recorded steps are replayed instead of scheduling the sequences anew. */
  readonly replay: boolean;
  readonly scheduler: readonly SchedulerName[];
  readonly policy: readonly EvictionPolicyName[];
  /** Cache sizes, in experts. */
  readonly capacity?: readonly number[];
  /** Cache sizes, in bytes. */
  readonly memory?: readonly number[];
  readonly lookaheadLayers?: number;
  readonly writeTrace?: string;
  readonly svg?: string;
  readonly json: boolean;
}

/** A size of the expert cache. */
export interface CacheBudget {
  /** Size in experts; absent if a size in bytes was asked for. */
  readonly capacity?: number | undefined;
  readonly budgetBytes: number;
}

const DEFAULT_CAPACITIES = [2, 3, 4, 5];

/**
 * Lists the sizes to run.
 *
 * @param usual - capacities if none is given
 * @throws {RangeError} when a capacity is larger than all experts
 */
export function budgetsOf(
  layout: ExpertLayout,
  { capacity, memory }: SimulateFlags,
  usual: readonly number[] = DEFAULT_CAPACITIES,
): readonly CacheBudget[] {
  if (memory) return memory.map((budgetBytes) => ({ budgetBytes }));
  const tooLarge = capacity?.find((experts) => experts > layout.numExperts);
  if (tooLarge !== undefined) {
    throw new RangeError(`Expected \`--capacity\` to be from 1 to ${layout.numExperts} experts, got \`${tooLarge}\``);
  }
  const capacities = capacity ?? usual.filter((experts) => experts <= layout.numExperts);
  return capacities.map((experts) => ({ capacity: experts, budgetBytes: experts * expertBytes(layout) }));
}

/** The result of one cache size, one scheduler and one policy. */
export interface SimulationRun extends CacheBudget {
  readonly scheduler: SchedulerName;
  readonly policy: EvictionPolicyName;
  /** Largest number of layers ahead for which reads may evict; 0 reads on demand. */
  readonly lookaheadLayers: number;
  readonly result: SimulationResult;
  /** Hit ratio of one layer alone, see `replayLayer`; absent if a size in bytes was asked for. */
  readonly layerHitRatio?: number | undefined;
}

/** @throws {RangeError} when a cache is too small for a layer of a step, or larger than all experts */
export function runSimulations(trace: ExpertTrace, flags: SimulateFlags): readonly SimulationRun[] {
  const budgets = budgetsOf(trace.layout, flags);
  return flags.scheduler.flatMap((scheduler) =>
    budgets.flatMap((budget) =>
      flags.policy.map((policy) => {
        const { capacity, budgetBytes } = budget;
        // Policies that do not look ahead are measured as other systems use them: reading on demand.
        const { lookaheadLayers = policy === "belady" ? 1 : 0 } = flags;
        const cache = { policy, seed: flags.seed, budgetBytes, lookaheadLayers };
        const result = simulate(trace, { ...serverOf(flags, scheduler), cache });
        const run = { ...budget, scheduler, policy, lookaheadLayers, result };
        if (capacity === undefined) return run;
        const layer = replayLayer(result.steps, capacity, resolveEvictionPolicy(policy, flags.seed), flags.seed);
        return { ...run, layerHitRatio: hitRatio(layer) };
      }),
    ),
  );
}

export function serverOf(flags: SimulateFlags, scheduler: SchedulerName): Omit<SimulationOptions, "cache"> {
  const { maxNumSeqs, maxNumBatchedSeqs = maxNumSeqs, maxNumBatchedTokens, chunkTokens } = flags;
  return {
    scheduler: SCHEDULERS[scheduler],
    limits: { maxNumBatchedSeqs, maxNumBatchedTokens, chunkTokens },
    maxNumSeqs,
    cost: { ...DEFAULT_COST_MODEL, loadMsPerByte: 1 / (flags.readMbPerS * 1e3) },
    overlapsReads: flags.overlap,
  };
}

/** The result of one cache size and one policy on recorded steps. */
export interface Replay extends CacheBudget {
  readonly policy: EvictionPolicyName;
  readonly counters: ExpertCacheCounters;
  readonly hitRatio: number;
  readonly bounds: CacheBounds;
  /** Number of runs through all layers: nearly always one per step. */
  readonly numRuns: number;
  /** Mean over runs. */
  readonly meanDistinctExperts: number;
}

/** @throws {RangeError} when a cache is too small for a layer of a step, or larger than all experts */
export function runReplays({ layout, steps }: ExpertTrace, flags: SimulateFlags): readonly Replay[] {
  const { policy: policies, seed } = flags;
  // Like the engine's cache, with every policy.
  const { lookaheadLayers = 1 } = flags;
  const recorded = steps.map(recordedStep);
  const runs = recorded.flatMap(({ runs: own }) => own);
  const asSteps = runs.map(({ experts }, step) => ({ step, tokensPerExpert: onesAt(experts, layout.numExperts) }));
  const meanDistinctExperts = runs.reduce((sum, { experts }) => sum + experts.length, 0) / Math.max(1, runs.length);
  return budgetsOf(layout, flags).flatMap((budget) => {
    const { budgetBytes } = budget;
    const bounds = cacheBounds(asSteps, layout, budgetBytes);
    return policies.map((policy) => {
      const counters = replayRecorded(recorded, { layout, budgetBytes, policy, seed, lookaheadLayers });
      const summary = { hitRatio: hitRatio(counters), bounds, numRuns: runs.length, meanDistinctExperts };
      return { ...budget, policy, counters, ...summary };
    });
  });
}

/** Completes a step without recorded runs: the next step is expected to use the same experts. */
function recordedStep({ tokensPerExpert, runs, laterSteps }: TraceStep): RecordedStep {
  if (runs) return { runs, laterSteps };
  const experts = distinctExperts({ tokensPerExpert });
  const alike = tokensPerExpert.map((tokens) => (tokens > 0 ? 1 : Infinity));
  return { runs: [{ experts, planned: [] }], laterSteps: laterSteps ?? alike };
}

function onesAt(experts: readonly number[], length: number): readonly number[] {
  return Array.from({ length }, (_, expert) => (experts.includes(expert) ? 1 : 0));
}
