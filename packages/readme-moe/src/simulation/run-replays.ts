// Steps that an engine has run, against expert caches of other sizes and policies.

import {
  cacheBounds,
  hitRatio,
  replayRecorded,
  type CacheBounds,
  type EvictionPolicyName,
  type ExpertCacheCounters,
  type ExpertTrace,
  type RecordedStep,
  type TraceStep,
} from "@readme-moe/core";
import { budgetsOf, type CacheBudget } from "./budgets.ts";
import type { SimulateFlags } from "./simulate-flags.ts";

/** One size of the cache with one policy. */
export interface Replay extends CacheBudget {
  readonly policy: EvictionPolicyName;
  readonly counters: ExpertCacheCounters;
  readonly hitRatio: number;
  readonly bounds: CacheBounds;
  /** Runs through all layers: one in each step, nearly always. */
  readonly numRuns: number;
  /** Mean over runs. */
  readonly meanDistinctExperts: number;
}

/** @throws {RangeError} when a cache is too small for a layer of a step, or larger than all experts */
export function runReplays({ layout, steps }: ExpertTrace, flags: SimulateFlags): readonly Replay[] {
  const { policy: policies, seed } = flags;
  // As the engine's cache, whatever the policy.
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

/** Where there was no cache that was told anything, the next step is expected to be like this one. */
function recordedStep({ tokensPerExpert, runs, laterSteps }: TraceStep): RecordedStep {
  if (runs) return { runs, laterSteps };
  const experts = tokensPerExpert.flatMap((tokens, expert) => (tokens > 0 ? [expert] : []));
  const alike = tokensPerExpert.map((tokens) => (tokens > 0 ? 1 : Infinity));
  return { runs: [{ experts, planned: [] }], laterSteps: laterSteps ?? alike };
}

function onesAt(experts: readonly number[], length: number): readonly number[] {
  return Array.from({ length }, (_, expert) => (experts.includes(expert) ? 1 : 0));
}
