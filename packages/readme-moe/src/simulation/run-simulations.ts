import {
  DEFAULT_COST_MODEL,
  expertBytes,
  hitRatio,
  replayLayer,
  resolveEvictionPolicy,
  simulate,
  type EvictionPolicyName,
  type ExpertTrace,
  type SimulationResult,
} from "@readme-moe/core";
import type { SimulateFlags } from "./simulate-flags.ts";
import { SCHEDULERS } from "./schedulers.ts";

/** One size of the cache with one policy. */
export interface SimulationRun {
  /** In experts; absent where a size in bytes was asked for. */
  readonly capacity?: number | undefined;
  readonly budgetBytes: number;
  readonly policy: EvictionPolicyName;
  readonly result: SimulationResult;
  /** Of one layer alone, see `replayLayer`; absent where a size in bytes was asked for. */
  readonly layerHitRatio?: number | undefined;
}

const DEFAULT_CAPACITIES = [2, 3, 4, 5];

/** @throws {RangeError} when a cache is too small for a layer of a step, or larger than all experts */
export function runSimulations(trace: ExpertTrace, flags: SimulateFlags): readonly SimulationRun[] {
  return budgetsOf(trace, flags).flatMap(({ capacity, budgetBytes }) =>
    flags.policy.map((policy) => {
      const result = simulate(trace, optionsOf(flags, policy, budgetBytes));
      if (capacity === undefined) return { budgetBytes, policy, result };
      const layer = replayLayer(result.steps, capacity, resolveEvictionPolicy(policy, flags.seed), flags.seed);
      return { capacity, budgetBytes, policy, result, layerHitRatio: hitRatio(layer) };
    }),
  );
}

/** By capacity, or by the sizes that were asked for. */
function budgetsOf(
  { layout }: ExpertTrace,
  { capacity, memory }: SimulateFlags,
): readonly { readonly capacity?: number; readonly budgetBytes: number }[] {
  if (memory) return memory.map((budgetBytes) => ({ budgetBytes }));
  const tooLarge = capacity?.find((experts) => experts > layout.numExperts);
  if (tooLarge !== undefined) {
    throw new RangeError(`Expected \`--capacity\` to be from 1 to ${layout.numExperts} experts, got \`${tooLarge}\``);
  }
  const capacities = capacity ?? DEFAULT_CAPACITIES.filter((experts) => experts <= layout.numExperts);
  return capacities.map((experts) => ({ capacity: experts, budgetBytes: experts * expertBytes(layout) }));
}

function optionsOf(
  flags: SimulateFlags,
  policy: EvictionPolicyName,
  budgetBytes: number,
): Parameters<typeof simulate>[1] {
  const { maxNumSeqs, maxNumBatchedSeqs = maxNumSeqs, maxNumBatchedTokens, chunkTokens, seed } = flags;
  // A policy that does not look at what comes is measured as it is used elsewhere: reading when something is missing.
  const { lookaheadLayers = policy === "belady" ? 1 : 0 } = flags;
  return {
    scheduler: SCHEDULERS[flags.scheduler],
    limits: { maxNumBatchedSeqs, maxNumBatchedTokens, chunkTokens },
    maxNumSeqs,
    cache: { policy, seed, budgetBytes, lookaheadLayers },
    cost: { ...DEFAULT_COST_MODEL, loadMsPerByte: 1 / (flags.readMbPerS * 1e3) },
    overlapsReads: flags.overlap,
  };
}
