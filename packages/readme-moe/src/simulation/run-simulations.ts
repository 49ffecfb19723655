import {
  DEFAULT_COST_MODEL,
  hitRatio,
  replayLayer,
  resolveEvictionPolicy,
  simulate,
  type EvictionPolicyName,
  type ExpertTrace,
  type SimulationResult,
} from "@readme-moe/core";
import { budgetsOf, type CacheBudget } from "./budgets.ts";
import type { SimulateFlags } from "./simulate-flags.ts";
import { SCHEDULERS, type SchedulerName } from "./schedulers.ts";

/** One size of the cache with one scheduler and one policy. */
export interface SimulationRun extends CacheBudget {
  readonly scheduler: SchedulerName;
  readonly policy: EvictionPolicyName;
  readonly result: SimulationResult;
  /** Of one layer alone, see `replayLayer`; absent where a size in bytes was asked for. */
  readonly layerHitRatio?: number | undefined;
}

/** @throws {RangeError} when a cache is too small for a layer of a step, or larger than all experts */
export function runSimulations(trace: ExpertTrace, flags: SimulateFlags): readonly SimulationRun[] {
  const budgets = budgetsOf(trace.layout, flags);
  return flags.scheduler.flatMap((scheduler) =>
    budgets.flatMap((budget) =>
      flags.policy.map((policy) => {
        const { capacity, budgetBytes } = budget;
        const result = simulate(trace, optionsOf(flags, scheduler, policy, budgetBytes));
        const run = { ...budget, scheduler, policy, result };
        if (capacity === undefined) return run;
        const layer = replayLayer(result.steps, capacity, resolveEvictionPolicy(policy, flags.seed), flags.seed);
        return { ...run, layerHitRatio: hitRatio(layer) };
      }),
    ),
  );
}

function optionsOf(
  flags: SimulateFlags,
  scheduler: SchedulerName,
  policy: EvictionPolicyName,
  budgetBytes: number,
): Parameters<typeof simulate>[1] {
  const { maxNumSeqs, maxNumBatchedSeqs = maxNumSeqs, maxNumBatchedTokens, chunkTokens, seed } = flags;
  // A policy that does not look at what comes is measured as it is used elsewhere: reading when something is missing.
  const { lookaheadLayers = policy === "belady" ? 1 : 0 } = flags;
  return {
    scheduler: SCHEDULERS[scheduler],
    limits: { maxNumBatchedSeqs, maxNumBatchedTokens, chunkTokens },
    maxNumSeqs,
    cache: { policy, seed, budgetBytes, lookaheadLayers },
    cost: { ...DEFAULT_COST_MODEL, loadMsPerByte: 1 / (flags.readMbPerS * 1e3) },
    overlapsReads: flags.overlap,
  };
}
